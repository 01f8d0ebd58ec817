"""LoRA against its formula, the plain encoder's own gradients, and peft's own model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from torch import nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from clickprompt.parameters import LoRAParameters, PLMParameters
from clickprompt.plm import load_encoder, merge_lora
from clickprompt.plm.dropout import Dropout
from clickprompt.plm.families import FAMILIES
from clickprompt.plm.lora import add_lora
from clickprompt.prompts import KeyValuePrompts
from tests.plm.tiny import LAYERS, save_tiny

ALL = ("query", "key", "value", "attention_output", "feed_forward")
MASK_BN = torch.arange(12) < torch.tensor([12, 9, 7, 10])[:, None]
TOKENS_BN = torch.where(MASK_BN, torch.arange(48).view(4, 12) % 90 + 5, 1)


@pytest.fixture(params=["bert", "roberta"])
def folder(request, tmp_path):
    """A checkpoint whose projections are matrices of their own."""
    save_tiny(tmp_path, request.param)
    return tmp_path


@pytest.fixture(params=[name for name, family in FAMILIES.items() if family.lora_targets])
def any_folder(request, tmp_path):
    """One of each family that has targets."""
    save_tiny(tmp_path, request.param)
    return tmp_path


def load(folder, lora=None, seed=0, **changes):
    parameters = PLMParameters(source=str(folder), keep_layers=None, lora=lora, **changes)
    return load_encoder(parameters, generator=torch.Generator().manual_seed(seed)).double().eval()


def hidden_of(encoder):
    shape = (2, 4, encoder.layers, encoder.heads, 3, encoder.head_size)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randn(shape, generator=generator, dtype=torch.float64)
    return encoder(TOKENS_BN, MASK_BN, KeyValuePrompts(*prompts))[MASK_BN]


def loss_of(encoder):
    hidden = hidden_of(encoder)
    return (hidden * torch.sin(torch.arange(hidden.numel()).double()).view_as(hidden)).sum()


def adapters(encoder):
    return {name: p for name, p in encoder.named_parameters() if ".lora_" in name}


def fill_adapters_(encoder) -> None:
    """A and B that are not small, by a formula."""
    with torch.no_grad():
        for rank, (_, parameter) in enumerate(sorted(adapters(encoder).items())):
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_(0.2 * torch.cos(0.9 * i + 0.01 * i * i + rank).view_as(parameter))


def merged_by_numpy(encoder, scale):
    """Tensors of the plain encoder, W + scale * B A, computed apart."""
    state = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    plain = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        at = name.removesuffix(".base_layer.weight")
        if at != name:
            b, a = state[f"{at}.lora_B.default.weight"], state[f"{at}.lora_A.default.weight"]
            tensor = tensor + scale * np.einsum("or,ri->oi", b, a)
        plain[name.replace(".base_layer.", ".")] = torch.from_numpy(tensor)
    return plain


@pytest.mark.parametrize("targets", [("query", "value"), ALL])
@torch.no_grad()
def test_a_fresh_adapter_changes_nothing_and_a_filled_one_does(any_folder, targets):
    plain, adapted = load(any_folder), load(any_folder, LoRAParameters(targets=targets))
    assert torch.equal(hidden_of(adapted), hidden_of(plain))
    fill_adapters_(adapted)
    assert not torch.allclose(hidden_of(adapted), hidden_of(plain), atol=1e-2)


@torch.no_grad()
def test_the_numbers_are_those_of_the_formula(folder):
    adapted = load(folder, LoRAParameters(rank=3, alpha=12.0, targets=ALL))
    fill_adapters_(adapted)
    plain = load(folder)
    before = hidden_of(plain)
    plain.load_state_dict(merged_by_numpy(adapted, 12.0 / 3))
    expected = hidden_of(plain)
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(hidden_of(adapted), expected, rtol=1e-10, atol=1e-11)


def test_gradients_follow_from_those_of_the_full_matrices(folder):
    """dL/dA = s B' dL/dW and dL/dB = s dL/dW A', with dL/dW of the plain encoder."""
    adapted = load(folder, LoRAParameters(rank=3, alpha=6.0, targets=ALL))
    fill_adapters_(adapted)
    loss_of(adapted).backward()
    plain = load(folder)
    plain.load_state_dict(merged_by_numpy(adapted, 2.0))
    loss_of(plain).backward()
    of_plain = {name: parameter.grad for name, parameter in plain.named_parameters()}
    checked = 0
    for name, a in adapters(adapted).items():
        if ".lora_A." not in name:
            continue
        at = name.removesuffix(".lora_A.default.weight")
        b = adapted.get_parameter(f"{at}.lora_B.default.weight")
        of_weight = of_plain[f"{at}.weight"]
        expected = 2.0 * b.detach().T @ of_weight, 2.0 * of_weight @ a.detach().T
        torch.testing.assert_close((a.grad, b.grad), expected, rtol=1e-9, atol=1e-11)
        checked += 1
    assert checked == 6 * LAYERS


def test_a_step_moves_the_adapters_only(folder):
    adapted = load(folder, LoRAParameters(rank=2, alpha=2.0))
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    loss_of(adapted).backward()
    optimizer.step()
    for name, parameter in adapted.named_parameters():
        # A learns nothing in the first step, since B is 0.
        assert torch.equal(parameter, before[name]) == (".lora_B." not in name), name
        assert (parameter.grad is None) == (".lora_" not in name), name
    plain = load(folder)
    plain.load_state_dict(merged_by_numpy(adapted, 1.0))
    torch.testing.assert_close(hidden_of(adapted), hidden_of(plain), rtol=1e-10, atol=1e-11)


@torch.no_grad()
def test_pefts_own_model_has_the_same_numbers(folder):
    """Without prompts, adapters and merged weights as `peft.get_peft_model` makes them."""
    adapted = load(folder, LoRAParameters(rank=4, alpha=8.0, targets=ALL))
    fill_adapters_(adapted)
    names = "attention.self.query|attention.self.key|attention.self.value|attention.output.dense"
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=rf".*\.layer\.\d+\.({names}|intermediate.dense|output.dense)",
    )
    theirs = get_peft_model(AutoModel.from_pretrained(folder, add_pooling_layer=False), config)
    theirs = theirs.double().eval()
    ours = {f"base_model.{name}": tensor for name, tensor in adapted.state_dict().items()}
    theirs.load_state_dict(ours)

    def theirs_hidden(model):
        found = model(input_ids=TOKENS_BN, attention_mask=MASK_BN.long())
        return found.last_hidden_state[MASK_BN]

    hidden = adapted(TOKENS_BN, MASK_BN)[MASK_BN]
    torch.testing.assert_close(hidden, theirs_hidden(theirs), rtol=0, atol=1e-11)
    merged = theirs.merge_and_unload()
    merge_lora(adapted)
    torch.testing.assert_close(dict(adapted.model.state_dict()), dict(merged.state_dict()))
    torch.testing.assert_close(
        adapted(TOKENS_BN, MASK_BN)[MASK_BN], theirs_hidden(merged), rtol=0, atol=1e-11
    )


@torch.no_grad()
def test_merged_adapters_are_a_plain_encoder(any_folder):
    adapted = load(any_folder, LoRAParameters(targets=ALL), freeze_layers=1)
    fill_adapters_(adapted)
    expected = hidden_of(adapted)
    merge_lora(adapted)
    plain = load(any_folder)
    plain.load_state_dict(adapted.state_dict())
    for encoder in (adapted, plain):
        torch.testing.assert_close(hidden_of(encoder), expected, rtol=1e-10, atol=1e-11)
    merge_lora(plain)  # nothing to merge
    torch.testing.assert_close(hidden_of(plain), expected, rtol=1e-10, atol=1e-11)


def test_frozen_layers_have_no_adapters(any_folder):
    encoder = load(any_folder, LoRAParameters(targets=ALL), freeze_layers=2)
    *_, last = encoder.family.layers(encoder.model)
    of_last = {id(parameter) for parameter in last.parameters()}
    assert adapters(encoder)
    assert all(id(parameter) in of_last for parameter in adapters(encoder).values())
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained == set(adapters(encoder))


def test_adapters_follow_from_their_generator_alone(folder):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = adapters(load(folder, LoRAParameters(), seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    again = adapters(load(folder, LoRAParameters(), seed=5))
    other = adapters(load(folder, LoRAParameters(), seed=6))
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, other[name]) == (".lora_B." in name)
        if ".lora_A." in name:  # uniform up to 1 / sqrt(in)
            limit = tensor.shape[1] ** -0.5
            assert 0.9 * limit < tensor.abs().max() <= limit


def test_dropout_of_the_adapters_acts_in_training_only(folder):
    encoder = load(folder, LoRAParameters(dropout=0.5, targets=ALL), dropout=0.0)
    fill_adapters_(encoder)
    modules = [m for name, m in encoder.named_modules() if name.endswith("lora_dropout.default")]
    assert len(modules) == 6 * LAYERS
    assert all(type(module) is Dropout and module.p == 0.5 for module in modules)
    calm = hidden_of(encoder)
    assert torch.equal(hidden_of(encoder), calm)
    encoder.train()
    assert not torch.equal(hidden_of(encoder), hidden_of(encoder))


@torch.no_grad()
def test_bf16_autocast_stays_near_float32(folder):
    encoder = load(folder, LoRAParameters(targets=ALL)).float()
    fill_adapters_(encoder)
    shape = (2, 4, encoder.layers, encoder.heads, 3, encoder.head_size)
    prompts = KeyValuePrompts(*torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    exact = encoder(TOKENS_BN, MASK_BN, prompts)[MASK_BN]
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(TOKENS_BN, MASK_BN, prompts)[MASK_BN].float()
    assert ((rough - exact).norm() / exact.norm()).item() < 0.03


def test_the_targets_of_a_family_are_all_linear_modules_of_its_layers(any_folder):
    encoder = load(any_folder)
    targets = encoder.family.lora_targets
    assert set(targets) == set(ALL)
    for layer in encoder.family.layers(encoder.model):
        linear = {n for n, m in layer.named_modules() if isinstance(m, nn.Linear | Conv1D)}
        assert {name for names in targets.values() for name in names} == linear


# --- a family with transposed, fused projections ---------------------------------------


class Transposed(nn.Module):
    """Two layers whose one matrix is kept as (in, out), as GPT-2's are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"fused": Conv1D(6, 6)}) for _ in range(2))
        self.config = type("Config", (), {"model_type": "toy"})()

    def forward(self, x):
        for layer in self.layers:
            x = layer["fused"](x)
        return x


@torch.no_grad()
def test_matrices_of_gpt_2_are_kept_the_other_way_round(recwarn):
    family = dataclasses.replace(
        FAMILIES["bert"],
        layers=lambda model: model.layers,
        lora_targets={"query": ("fused",), "value": ("fused",)},
    )
    model = Transposed().double()
    add_lora(model, family, LoRAParameters(rank=2, alpha=4), generator=torch.Generator())
    model.double()
    fill_adapters_(model)
    x = torch.sin(torch.arange(18.0, dtype=torch.float64)).view(3, 6)
    expected = x
    for layer in model.layers:
        fused = layer["fused"]
        a, b = (getattr(fused, f"lora_{name}").default.weight for name in "AB")
        base = fused.base_layer
        expected = expected @ base.weight + base.bias + 2.0 * (expected @ a.T @ b.T)
    torch.testing.assert_close(model(x), expected)
    merge_lora(model)
    assert type(model.layers[0]["fused"]) is Conv1D
    torch.testing.assert_close(model(x), expected)
    assert not recwarn.list


# --- mistakes --------------------------------------------------------------------------


def test_a_family_without_targets_is_an_error(folder):
    model = load(folder).model
    family = dataclasses.replace(FAMILIES["bert"], lora_targets={})
    with pytest.raises(ValueError, match=r"plm.lora must be null for the family '\w+', .*rank 8"):
        add_lora(model, family, LoRAParameters(), generator=torch.Generator())


def test_a_target_that_the_family_lacks_is_an_error(folder):
    model = load(folder).model
    family = dataclasses.replace(FAMILIES["bert"], lora_targets={"key": ("attention.self.key",)})
    with pytest.raises(ValueError, match=r"plm.lora.targets must be among key .*got 'query'"):
        add_lora(model, family, LoRAParameters(), generator=torch.Generator())


def test_no_layer_left_to_adapt_is_an_error(folder):
    with pytest.raises(ValueError, match=r"must leave a layer for plm.lora, got 3 of 3 layers"):
        load(folder, LoRAParameters(), freeze_layers=3)


def test_targets_must_be_different():
    with pytest.raises(ValidationError, match="must be different matrices, got query, query"):
        LoRAParameters(targets=("query", "query"))
