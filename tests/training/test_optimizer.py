from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from clickprompt.ctr import build_ctr
from clickprompt.parameters import CTRParameters, StageParameters
from clickprompt.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    rate_factor,
)


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ctr = nn.Linear(3, 2)
        self.generator = nn.Linear(2, 2)
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.click_head = nn.Linear(2, 1)
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        z = self.ctr(x)
        return self.alpha * self.click_head(self.encoder(self.generator(z))) + z.sum()


STAGE = StageParameters(
    epochs=1,
    batch_size=1,
    learning_rate_ctr=1e-3,
    learning_rate_prompts=2e-3,
    learning_rate_plm=3e-3,
    learning_rate_head=4e-3,
    weight_decay=0.1,
    weight_decay_plm=0.2,
)


def test_biases_and_norms_may_have_a_rate_of_their_own():
    """As the reference: whatever the rate of their part. alpha is neither."""
    stage = STAGE.model_copy(update={"learning_rate_biases_and_norms": 7e-3})
    rates = {group["name"]: group["lr"] for group in parameter_groups(Parts(), STAGE)}
    apart = {group["name"]: group["lr"] for group in parameter_groups(Parts(), stage)}
    kind = ".biases_and_norms"
    changed = {name for name in rates if name.endswith(kind) and not name.startswith("alpha")}
    assert len(changed) == 4
    assert apart == rates | dict.fromkeys(changed, 7e-3)


def test_a_frozen_part_is_frozen_with_its_biases():
    model = Parts()
    changes = {"learning_rate_biases_and_norms": 1e-3, "learning_rate_plm": 0.0}
    groups = parameter_groups(model, STAGE.model_copy(update=changes))
    assert not [group for group in groups if str(group["name"]).startswith("encoder")]
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_every_parameter_is_in_exactly_one_group_with_its_rate_and_decay():
    model = Parts()
    groups = parameter_groups(model, STAGE)
    members = [id(p) for group in groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert found == {
        "ctr.weights": (1e-3, 0.1),
        "ctr.biases_and_norms": (1e-3, 0.0),
        "generator.weights": (2e-3, 0.1),
        "generator.biases_and_norms": (2e-3, 0.0),
        "encoder.weights": (3e-3, 0.2),
        "encoder.biases_and_norms": (3e-3, 0.0),
        "click_head.weights": (4e-3, 0.1),
        "click_head.biases_and_norms": (4e-3, 0.0),
        "alpha.biases_and_norms": (4e-3, 0.0),
    }


@pytest.mark.parametrize(("decay", "expected"), [(None, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_tables_are_a_group_with_a_decay_of_their_own(decay, expected):
    ctr = CTRParameters(name="deepfm", embedding_size=2, hidden_sizes=(3,), linear=True)
    model = nn.ModuleDict({"ctr": build_ctr(ctr, (4, 5))})
    stage = STAGE.model_copy(update={"weight_decay_embedding": decay})
    groups = {group["name"]: group for group in parameter_groups(model, stage)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "ctr.embedding": expected,
        "ctr.weights": 0.1,
        "ctr.biases_and_norms": 0.0,
    }
    tables = groups["ctr.embedding"]["params"]
    assert [id(table) for table in tables] == [
        id(model["ctr"].embedding.weight),
        id(model["ctr"].linear.embedding.weight),
    ]


def test_a_rate_of_zero_freezes_the_part():
    model = Parts()
    stage = STAGE.model_copy(update={"learning_rate_plm": 0.0})
    names = {group["name"].split(".")[0] for group in parameter_groups(model, stage)}
    assert names == {"ctr", "generator", "click_head", "alpha"}
    model(torch.ones(1, 3)).sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())


def test_all_frozen_is_an_error():
    rates = dict.fromkeys(
        ("learning_rate_ctr", "learning_rate_prompts", "learning_rate_plm", "learning_rate_head"),
        0.0,
    )
    with pytest.raises(ValueError, match="at least one learning rate must be above 0"):
        parameter_groups(Parts(), STAGE.model_copy(update=rates))


def adam_twin(w, gradients, *, rate, decay, coupled, b1=0.9, b2=0.999, eps=1e-8):
    """Adam as in its paper, L2 in the gradient or decoupled, step by step in numpy."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        if coupled:
            g = g + decay * w
        else:
            w = w - rate * decay * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_decay_against_a_numpy_twin(decay):
    model = Parts().double()
    stage = STAGE.model_copy(update={"decay": decay})
    optimizer = build_optimizer(model, stage)
    start = model.ctr.weight.detach().numpy().copy()
    gradients = [np.sin(np.arange(6.0).reshape(2, 3) + k) for k in range(5)]
    for gradient in gradients:
        model.ctr.weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = adam_twin(start, gradients, rate=1e-3, decay=0.1, coupled=decay == "coupled")
    np.testing.assert_allclose(model.ctr.weight.detach().numpy(), expected, rtol=1e-9)


def test_schedules():
    def factors(**changes):
        stage = STAGE.model_copy(update=changes)
        return [rate_factor(step, total=10, stage=stage) for step in range(10)]

    assert factors() == [1.0] * 10
    assert factors(schedule="linear") == pytest.approx([1 - k / 10 for k in range(10)])
    warm = factors(schedule="linear", warmup=0.2)
    assert warm == pytest.approx([0.5, 1.0, *(1 - k / 8 for k in range(8))])
    cosine = factors(schedule="cosine")
    assert cosine == pytest.approx([(1 + math.cos(math.pi * k / 10)) / 2 for k in range(10)])


def test_the_state_makes_a_round_trip_bit_for_bit():
    torch.manual_seed(0)
    model = Parts()
    optimizer = build_optimizer(model, STAGE)
    inputs = torch.randn(4, 3)

    def steps(count):
        for _ in range(count):
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    steps(3)
    weights = {name: p.detach().clone() for name, p in model.state_dict().items()}
    tensors = {name: t.clone() for name, t in optimizer_tensors(optimizer).items()}
    steps(2)
    expected = [p.detach().clone() for p in model.parameters()]
    model.load_state_dict(weights)
    optimizer = build_optimizer(model, STAGE)
    load_optimizer_tensors(optimizer, tensors)
    steps(2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected, strict=True))
