"""Frozen lower layers and gradient checkpointing, against the full model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clickprompt.parameters import PLMParameters
from clickprompt.plm import MLMHead, PromptedEncoder, load_encoder
from clickprompt.prompts import HiddenStatePrompts, InputPrompts, KeyValuePrompts
from tests.plm.tiny import CLASSES, LAYERS, save_tiny

LENGTHS = torch.tensor([12, 9, 7, 10])
MASK_BN = torch.arange(12) < LENGTHS[:, None]
TOKENS_BN = torch.where(MASK_BN, torch.arange(48).view(4, 12) % 90 + 5, 1)
SELECTED = (torch.tensor([0, 1, 1, 3]), torch.tensor([2, 1, 8, 4]))


@pytest.fixture(params=list(CLASSES))
def load(request, tmp_path):
    save_tiny(tmp_path, request.param)

    def loaded(**changes) -> PromptedEncoder:
        parameters = PLMParameters(source=str(tmp_path), keep_layers=None, **changes)
        return load_encoder(parameters).double()

    return loaded


def prompts_of(encoder: PromptedEncoder, layout: str, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "key_value": 2 * [(4, encoder.layers, encoder.heads, 3, encoder.head_size)],
        "hidden_state": [(4, encoder.layers, 3, encoder.hidden_size)],
    }
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes[layout]
    ]


def written(tensors: list[torch.Tensor], layout: str):
    return {"key_value": KeyValuePrompts, "hidden_state": HiddenStatePrompts}[layout](*tensors)


def run(encoder, tensors, layout, *, short=False, seed=7):
    """Output, and gradients of the encoder's parameters and of the prompts (None: no gradient)."""
    torch.manual_seed(seed)  # of dropout
    encoder.zero_grad()
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    at = {"last_layer_at": SELECTED} if short else {}
    hidden = encoder(TOKENS_BN, MASK_BN, written(leaves, layout), **at)
    hidden = hidden if short else hidden[MASK_BN]
    coefficients = torch.sin(torch.arange(hidden.numel(), dtype=torch.float64)).view_as(hidden)
    (hidden * coefficients).sum().backward()
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    return hidden.detach(), gradients, [leaf.grad for leaf in leaves]


def names_below(encoder, layers: int) -> set[str]:
    """Parameters of the embeddings and of the lower layers."""
    family, model = encoder.family, encoder.model
    above = nn.ModuleList(list(family.layers(model))[layers:])
    if isinstance(last_norm := family.last_norm(model), nn.Module):
        above.append(last_norm)
    learn = {id(parameter) for parameter in above.parameters()}
    below = {name for name, p in encoder.named_parameters() if id(p) not in learn}
    if model.config.model_type in ("bert", "roberta"):  # seen from the names
        starts = ("model.embeddings.", *(f"model.encoder.layer.{n}." for n in range(layers)))
        assert below == {n for n, _ in encoder.named_parameters() if n.startswith(starts)}
    return below


def frozen_by_hand(encoder, leaves, layout, layers, *, short, seed=7):
    """`run` of the full model whose lower parts are switched off from outside."""
    below = names_below(encoder, layers)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in below)
    torch.manual_seed(seed)
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    cut = [torch.cat((leaf[:, :layers].detach(), leaf[:, layers:]), dim=1) for leaf in leaves]
    at = {"last_layer_at": SELECTED} if short else {}
    hidden = encoder(TOKENS_BN, MASK_BN, written(cut, layout), **at)
    hidden = hidden if short else hidden[MASK_BN]
    coefficients = torch.sin(torch.arange(hidden.numel(), dtype=torch.float64)).view_as(hidden)
    (hidden * coefficients).sum().backward()
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    return hidden.detach(), gradients, [leaf.grad for leaf in leaves]


# --- frozen lower layers ---------------------------------------------------------------


@pytest.mark.parametrize("layout", ["key_value", "hidden_state"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("short", [False, True])
def test_frozen_layers_leave_the_numbers_and_the_gradients_above(load, layout, layers, short):
    """With dropout: the masks are those of the full model."""
    full, frozen = load(), load(freeze_layers=layers)
    tensors = prompts_of(full, layout)
    expected, wanted, wanted_prompts = frozen_by_hand(full, tensors, layout, layers, short=short)
    hidden, gradients, of_prompts = run(frozen, tensors, layout, short=short)
    assert torch.equal(hidden, expected)
    below = names_below(full, layers)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        assert (gradient is None) == (name in below), name
        if gradient is not None:
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=1e-14)
    for found, by_hand in zip(of_prompts, wanted_prompts, strict=True):
        torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-14)
        assert not found[:, :layers].any()
        assert found[0, layers:].flatten(1).any(dim=1).all()


def test_a_frozen_layer_has_no_graph(load):
    encoder = load(freeze_layers=2)
    tensors = prompts_of(encoder, "key_value")
    hiddens = encoder(TOKENS_BN, MASK_BN, written(tensors, "key_value"), all_layers=True)
    assert [hidden.requires_grad for hidden in hiddens] == [False, False, True]


def test_all_layers_may_be_frozen(load):
    encoder = load(freeze_layers=LAYERS)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained.isdisjoint(names_below(encoder, LAYERS))
    tensors = prompts_of(encoder, "key_value")
    hidden = encoder(TOKENS_BN, MASK_BN, written(tensors, "key_value"))
    short = encoder(TOKENS_BN, MASK_BN, written(tensors, "key_value"), last_layer_at=SELECTED)
    for output in (hidden, short):
        if output.requires_grad:  # a norm after the last layer learns, the prompts do not
            output.sum().backward()
    assert all(tensor.grad is None for tensor in tensors)


def test_freeze_layers_out_of_range(load):
    with pytest.raises(ValueError, match=rf"plm.freeze_layers must be in 0..{LAYERS}, got 9"):
        load(freeze_layers=9)
    full = load()
    with pytest.raises(ValueError, match=rf"freeze_layers must be in 0..{LAYERS}, got -1"):
        PromptedEncoder(model=full.model, family=full.family, freeze_layers=-1)


def test_freeze_layers_counts_the_layers_that_are_kept(tmp_path):
    save_tiny(tmp_path, "bert")
    parameters = PLMParameters(source=str(tmp_path), keep_layers=2, freeze_layers=3)
    with pytest.raises(ValueError, match=r"plm.freeze_layers must be in 0..2, got 3"):
        load_encoder(parameters)


def test_prompts_in_front_of_the_text_need_the_layers_below(load):
    encoder = load(freeze_layers=1)
    front = InputPrompts(torch.zeros(4, 2, encoder.embedding_size, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"freeze_layers must be 0 with prompts in front .* got 1"):
        encoder(TOKENS_BN, MASK_BN, front)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_decoder_is_frozen_with_its_table(load, tied):
    encoder = load(freeze_layers=1)
    head = MLMHead(encoder=encoder, tied=tied).double()
    tensors = prompts_of(encoder, "key_value")
    table_VH = encoder.word_embeddings.weight.detach().clone()
    hidden_SH = encoder(TOKENS_BN, MASK_BN, written(tensors, "key_value"), last_layer_at=SELECTED)
    head(hidden_SH).square().sum().backward()
    assert encoder.word_embeddings.weight.grad is None
    assert torch.equal(encoder.word_embeddings.weight, table_VH)
    if head.bias is not None:
        assert head.bias.grad.any()
    if not tied:
        assert head.decoder.grad.any()


# --- gradient checkpointing ------------------------------------------------------------


@pytest.mark.parametrize("attention", ["matmul", "sdpa"])
@pytest.mark.parametrize("layout", ["key_value", "hidden_state"])
@pytest.mark.parametrize("short", [False, True])
def test_checkpointing_changes_no_bit_with_dropout_on(load, attention, layout, short):
    plain = load(attention=attention)
    saving = load(attention=attention, gradient_checkpointing=True)
    tensors = prompts_of(plain, layout)
    expected = run(plain, tensors, layout, short=short)
    found = run(saving, tensors, layout, short=short)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    other = run(saving, tensors, layout, short=short, seed=8)
    assert not torch.equal(other[0], expected[0]), "dropout must be on"


def test_checkpointing_changes_no_bit_in_bf16(load):
    tensors = [tensor.float() for tensor in prompts_of(load(), "key_value")]
    results = []
    for saving in (False, True):
        encoder = load(gradient_checkpointing=saving).float()
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = encoder(TOKENS_BN, MASK_BN, written(leaves, "key_value"))[MASK_BN]
        hidden.float().square().sum().backward()
        results.append((hidden, [p.grad for p in encoder.parameters()], [x.grad for x in leaves]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_checkpointing_above_frozen_layers(load):
    expected = run(load(freeze_layers=1), prompts := prompts_of(load(), "key_value"), "key_value")
    found = run(load(freeze_layers=1, gradient_checkpointing=True), prompts, "key_value")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_checkpointing_and_frozen_layers_need_less_memory(tmp_path):
    save_tiny(tmp_path, "bert", num_hidden_layers=8)

    def peak(**changes) -> int:
        encoder = load_encoder(PLMParameters(source=str(tmp_path), keep_layers=None, **changes))
        token_ids_BN = torch.full((64, 24), 7)
        shape = (64, encoder.layers, encoder.heads, 3, encoder.head_size)
        prompts = KeyValuePrompts(*torch.randn(2, *shape).requires_grad_())

        def step() -> None:
            encoder(token_ids_BN, None, prompts).sum().backward()

        step()  # so that the gradients are there
        return peak_bytes(step)

    full = peak()
    assert peak(gradient_checkpointing=True) < 0.5 * full
    assert peak(freeze_layers=4) < 0.7 * full


def peak_bytes(work) -> int:
    """Most memory that tensors made inside ``work`` hold at once."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
