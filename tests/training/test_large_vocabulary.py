"""Tables whose training touches the rows of a batch only: the step, its cost, a whole stage."""

from __future__ import annotations

import copy
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.measured import own_peak_mb
from clickprompt.ctr import FeatureEmbedding, build_ctr
from clickprompt.models import CTRForClicks
from clickprompt.parameters import CTR_MODELS, ClickStageParameters, CTRParameters
from clickprompt.training import loop, stages
from clickprompt.training.machine import keep_freed_memory
from clickprompt.training.optimizer import (
    BATCH_ROWS_FROM,
    LazyAdam,
    build_optimizer,
    clip_gradients,
    feature_embeddings,
    load_optimizer_tensors,
    optimizer_tensors,
)
from tests.reference.lazy_adam import lazy_adam
from tests.training.test_ctr_models import SIZES
from tests.training.tiny_run import CTR, run_stages, training

FIELD_SIZES = (7, 5)
BAGS = {1: np.array([[0, -1, -1], [1, 2, -1], [3, 4, 1], [-1, 2, -1]])}


def click_model(name: str = "deepfm", *, field_sizes=FIELD_SIZES, bags=None, **sizes):
    ctr = CTRParameters.model_validate(
        {"name": name, "embedding_size": 3, "hidden_sizes": (4,), "linear": True} | sizes
    )
    return CTRForClicks(
        ctr=build_ctr(ctr, field_sizes, bags, generator=torch.Generator().manual_seed(0))
    )


def stage(updates: str, **changes) -> ClickStageParameters:
    settings = {"epochs": 1, "batch_size": 8, "learning_rate_ctr": 0.01}
    return ClickStageParameters.model_validate(settings | {"embedding_updates": updates} | changes)


def step(model, optimizer, x_id_BF, *, clip: float | None = None) -> None:
    """A step on clicks that follow from the ids."""
    label_B = (x_id_BF.sum(dim=1) % 2).double()
    binary_cross_entropy_with_logits(model(x_id_BF).double(), label_B).backward()
    if clip is not None:
        clip_gradients(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


def dense_and_lazy(model, **changes):
    """The model twice, each with its optimiser."""
    models = [model.double(), copy.deepcopy(model)]
    return [
        (one, build_optimizer(one, stage(updates, **changes)))
        for one, updates in zip(models, ("all_rows", "batch_rows"), strict=True)
    ]


def assert_same(one, other, rtol=1e-12, atol=1e-12) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "decay",
    [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decay": "decoupled"},
        {"weight_decay_embedding": 0.3},
    ],
)
@pytest.mark.parametrize("name", ["deepfm", "fgcnn"])
def test_it_is_dense_adam_where_every_row_occurs_in_every_step(name, decay):
    every = torch.cartesian_prod(torch.arange(7), torch.arange(5))
    sizes = {} if name == "deepfm" else SIZES
    model = click_model(name, **sizes).eval()  # a bias before a batch norm learns from rounding
    (dense, dense_adam), (lazy, lazy_adam_) = dense_and_lazy(model, **decay)
    for seed in range(12):
        order = torch.randperm(35, generator=torch.Generator().manual_seed(seed))
        x_id_BF = every[order][: 35 - seed]  # other orders, rows more or less often
        x_id_BF = torch.cat([x_id_BF, torch.stack([torch.arange(7), torch.arange(7) % 5], 1)])
        step(dense, dense_adam, x_id_BF)
        step(lazy, lazy_adam_, x_id_BF)
    assert_same(dense, lazy)


def test_the_first_step_is_dense_adams_for_its_rows_and_leaves_the_others():
    model = click_model()
    before = [table.weight.detach().clone().double() for table in feature_embeddings(model)]
    (dense, dense_adam), (lazy, lazy_adam_) = dense_and_lazy(model)
    x_id_BF = torch.tensor([[1, 4], [1, 0], [6, 4]])
    step(dense, dense_adam, x_id_BF)
    step(lazy, lazy_adam_, x_id_BF)
    assert_same(dense, lazy)  # without moments and L2 dense Adam leaves the others as well
    for table, was in zip(feature_embeddings(lazy), before, strict=True):
        changed = (table.weight != was).any(dim=1).nonzero().flatten().tolist()
        assert changed == [1, 6, 7, 11]


def test_without_memory_it_is_dense_adam_whatever_occurs():
    """Betas of 0: a step depends on its gradient alone, as in SGD."""
    model = click_model().double()
    twin = copy.deepcopy(model)
    dense = build_optimizer(model, stage("all_rows"), betas=(0.0, 0.0))
    lazy = build_optimizer(twin, stage("batch_rows"), betas=(0.0, 0.0))
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        x_id_BF = torch.stack([torch.randint(0, n, (3,), generator=generator) for n in (7, 5)], 1)
        step(model, dense, x_id_BF)
        step(twin, lazy, x_id_BF)
    assert_same(model, twin)


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("name", CTR_MODELS)
def test_rows_that_are_not_in_the_batch_stay_bit_for_bit(name, decay):
    changes = {"weight_decay": 0.1, "decay": decay}
    model = click_model(name, bags=BAGS, **(SIZES | {"embedding_size": 4}))
    optimizer = build_optimizer(model, stage("batch_rows", **changes))
    step(model, optimizer, torch.tensor([[i, i % 4] for i in range(7)]))
    tables = list(feature_embeddings(model))
    before = [
        [t.clone() for t in (table.weight.detach(), *_moments(optimizer, table))]
        for table in tables
    ]
    step(model, optimizer, torch.tensor([[2, 1], [2, 3], [5, 1]]))  # members 1 and 2 of the bag
    for table, was in zip(tables, before, strict=True):
        for now, then in zip((table.weight, *_moments(optimizer, table)), was, strict=True):
            changed = (now != then).any(dim=1).nonzero().flatten().tolist()
            assert changed == [2, 5, 8, 9]


def _moments(optimizer, table):
    state = optimizer.state[table.weight]
    return state["exp_avg"], state["exp_avg_sq"]


@settings(deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=6),
        min_size=1,
        max_size=5,
    ),
    coupled=st.booleans(),
    decay=st.sampled_from([0.0, 0.2]),
)
def test_against_the_twin_with_repeated_ids_and_bags(batches, coupled, decay):
    table = FeatureEmbedding(field_sizes=FIELD_SIZES, embedding_size=3, bags=BAGS).double()
    table.sparse_gradient = True
    start = table.weight.detach().numpy().copy()
    optimizer = LazyAdam(
        table.parameters(), lr=0.05, weight_decay=decay, decoupled_weight_decay=not coupled,
        fused=True,
    )  # fmt: skip
    twin_steps = []
    for number, batch in enumerate(batches):
        gradient_BFE = np.sin(np.arange(len(batch) * 6.0) + number).reshape(len(batch), 2, 3)
        table(torch.tensor(batch)).backward(torch.from_numpy(gradient_BFE))
        optimizer.step()
        optimizer.zero_grad()
        rows, gradients = [], []
        for (plain, bag), (of_plain, of_bag) in zip(batch, gradient_BFE, strict=True):
            members = [member for member in BAGS[1][bag] if member >= 0]
            rows += [plain, *(7 + member for member in members)]
            gradients += [of_plain, *[of_bag / len(members)] * len(members)]
        twin_steps.append((rows, np.array(gradients)))
    found = (table.weight.detach(), *_moments(optimizer, table))
    expected = lazy_adam(start, twin_steps, rate=0.05, decay=decay, coupled=coupled)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_sparse_gradients_are_clipped_as_dense_ones(limit):
    x_id_BF = torch.tensor([[1, 4], [1, 0], [1, 4]])  # repeated: to be added up, then squared
    gradients = []
    for model, _ in dense_and_lazy(click_model()):
        (model(x_id_BF).square().sum()).backward()
        clip_gradients(model.parameters(), limit)
        gradients.append([p.grad.to_dense() for p in model.parameters()])
    for dense, sparse in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-15)
    norm = torch.cat([gradient.flatten() for gradient in gradients[1]]).norm()
    assert (norm == pytest.approx(limit, rel=1e-3)) == (limit == 1e-3)


def test_clipping_is_torchs_where_no_gradient_is_sparse():
    one, other = (pair[0] for pair in dense_and_lazy(click_model(), embedding_updates="all_rows"))
    for model in (one, other):
        model(torch.tensor([[1, 4], [3, 0]])).square().sum().backward()
    clip_gradients(one.parameters(), 0.01)
    torch.nn.utils.clip_grad_norm_(other.parameters(), 0.01)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_auto_goes_by_the_rows_of_the_table():
    for rows, sparse in ((BATCH_ROWS_FROM - 1, False), (BATCH_ROWS_FROM, True)):
        model = click_model("fm", field_sizes=(rows - 5, 5), embedding_size=1)
        build_optimizer(model, stage("auto"))
        assert [table.sparse_gradient for table in feature_embeddings(model)] == [sparse] * 2
    for updates, sparse in (("all_rows", False), ("batch_rows", True)):
        model = click_model()
        build_optimizer(model, stage(updates))
        assert [table.sparse_gradient for table in feature_embeddings(model)] == [sparse] * 2


def test_a_frozen_table_is_left_alone():
    model = torch.nn.ModuleDict({"ctr": click_model().ctr, "click_head": torch.nn.Linear(5, 1)})
    before = model["ctr"].embedding.weight.detach().clone()
    optimizer = build_optimizer(model, stage("batch_rows", learning_rate_ctr=0.0))
    model["click_head"](model["ctr"].representation(torch.tensor([[1, 2]]))).sum().backward()
    clip_gradients(model.parameters(), 1.0)
    optimizer.step()
    assert model["ctr"].embedding.weight.grad is None
    assert torch.equal(model["ctr"].embedding.weight, before)


def test_the_state_makes_a_round_trip_into_either_kind_of_update():
    """Both kinds have the same state, bit for bit as it was saved."""
    model = click_model()
    optimizer = build_optimizer(model, stage("batch_rows"))
    x_id_BF = torch.tensor([[1, 4], [6, 0]])
    for _ in range(3):
        step(model, optimizer, x_id_BF)
    twin = copy.deepcopy(model)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    again = build_optimizer(twin, stage("batch_rows"))
    load_optimizer_tensors(again, tensors)
    step(model, optimizer, x_id_BF)
    step(twin, again, x_id_BF)
    assert_same(model, twin, rtol=0, atol=0)
    dense = build_optimizer(twin, stage("all_rows"))
    load_optimizer_tensors(dense, optimizer_tensors(optimizer))
    assert optimizer_tensors(dense).keys() == optimizer_tensors(optimizer).keys()


def test_all_stages_run_and_interrupted_ones_end_with_the_same_weights(
    inputs_folder, tmp_path, monkeypatch
):
    lazy = {"embedding_updates": "batch_rows", "weight_decay": 0.01}
    whole = run_stages(inputs_folder, tmp_path / "whole", lazy)
    real, steps = loop._step, [0]

    def counted(*arguments, **options):
        if steps[0] == 40:
            steps[0] = 0
            raise KeyboardInterrupt
        steps[0] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "_step", counted)
    interrupted, starts = None, 0
    while interrupted is None:
        starts += 1
        with suppress(KeyboardInterrupt):
            interrupted = run_stages(
                inputs_folder, tmp_path / "interrupted", lazy, checkpoint_minutes=0
            )
    assert starts > 2
    for expected, found in zip(whole, interrupted, strict=True):
        weights = load_file(f"{found}/weights.safetensors")
        for name, tensor in load_file(f"{expected}/weights.safetensors").items():
            assert torch.equal(weights[name], tensor), f"{found}: {name}"


def test_a_stage_learns_what_it_learns_with_all_rows(model_input, tmp_path):
    found = {
        updates: stages.train_backbone(
            model_input=model_input,
            ctr=CTR,
            stage=stage(updates, epochs=8, batch_size=64),
            training=training(tmp_path),
            seed=0,
        ).report["metrics"]["valid_auc"]
        for updates in ("all_rows", "batch_rows")
    }
    assert found["batch_rows"] != found["all_rows"]
    assert found["batch_rows"] == pytest.approx(found["all_rows"], abs=0.05)
    assert found["batch_rows"] > 0.55


@pytest.mark.slow
def test_a_step_costs_the_same_at_ten_million_rows():
    """Cache misses may cost; 100 times the rows must not. No copy of a table is ever made."""
    keep_freed_memory()
    batch, fields, seconds, growth = 1024, 8, {}, {}
    for rows in (100_000, 10_000_000):
        model = CTRForClicks(
            ctr=build_ctr(CTRParameters(name="deepfm", linear=True), (rows // fields,) * fields)
        )
        optimizer = build_optimizer(model, stage("batch_rows", weight_decay=1e-3, clip_norm=1.0))
        assert model.ctr.embedding.sparse_gradient
        generator = torch.Generator().manual_seed(0)
        shape = (8, batch, fields)
        batches = torch.randint(0, rows // fields, shape, generator=generator)
        for x_id_BF in batches:  # moments are there, their pages touched
            step(model, optimizer, x_id_BF, clip=1.0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, times = psutil.Process().memory_info().rss / 2**20, []
        for x_id_BF in [*batches] * 3:
            start = time.perf_counter()
            step(model, optimizer, x_id_BF, clip=1.0)
            times.append(time.perf_counter() - start)
        seconds[rows] = min(times)
        growth[rows] = own_peak_mb() - before
        del model, optimizer
    assert seconds[10_000_000] < 4 * seconds[100_000]
    assert growth[10_000_000] < 64  # MiB; a table has 1,221, a mask of its elements 305
