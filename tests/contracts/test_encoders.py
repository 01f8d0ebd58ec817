"""What the prompted encoder must do for every family; a new one is covered by a tiny config.

The four facts of section 4 of docs/method.md, for tiny random encoders and for the embedded model.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from clickprompt.parameters import PLMParameters
from clickprompt.plm import PromptedEncoder, load_encoder, resolve_source
from clickprompt.plm.attention import KERNELS
from clickprompt.plm.families import FAMILIES
from clickprompt.prompts import KeyValuePrompts, PromptGenerator
from tests.plm.tiny import CLASSES, PADDING, POSITIONS, WINDOW, exact_rotations, save_tiny

PROMPTS = 3
LENGTHS = torch.tensor([12, 9, 7, 10])
MASK_BN = torch.arange(12) < LENGTHS[:, None]


@dataclass(frozen=True)
class Case:
    """One encoder and what loads it."""

    encoder: PromptedEncoder
    parameters: PLMParameters
    padding: int

    def tokens(self, mask_BN: torch.Tensor = MASK_BN, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        token_ids_BN = torch.randint(5, 100, mask_BN.shape, generator=generator)
        return torch.where(mask_BN, token_ids_BN, self.padding)

    def prompts(self, batch: int = 4, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        encoder = self.encoder
        shape = (2, batch, encoder.layers, encoder.heads, PROMPTS, encoder.head_size)
        key, value = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return key, value


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in made.items():
        save_tiny(folder, family)
    return made


@functools.cache
def _load(family: str, folder: Path | None, kernel: str) -> Case:
    if folder is None:
        parameters = PLMParameters(attention=kernel)
    else:
        parameters = PLMParameters(source=str(folder), keep_layers=None, attention=kernel)
    return Case(load_encoder(parameters).eval(), parameters, PADDING[family])


@pytest.fixture(params=["sdpa", "matmul"])
def kernel(request) -> str:
    return request.param


@pytest.fixture(params=list(FAMILIES))
def tiny_case(request, kernel, folders) -> Case:
    return _load(request.param, folders[request.param], kernel)


@pytest.fixture(params=[*FAMILIES, "embedded"])
def case(request, kernel, folders) -> Case:
    if request.param == "embedded":
        return _load("bert", None, kernel)
    return _load(request.param, folders[request.param], kernel)


@functools.cache
def _plain(parameters: PLMParameters, layers: int) -> torch.nn.Module:
    """transformers' own model with its own attention."""
    source = resolve_source(parameters)
    no_pooler = {"add_pooling_layer": False}
    options = no_pooler if source.config()["model_type"] in ("bert", "roberta") else {}
    return AutoModel.from_pretrained(
        source.folder, num_hidden_layers=layers, attn_implementation="sdpa", **options
    ).eval()


def test_every_family_has_a_tiny_config():
    assert set(CLASSES) == set(FAMILIES)


# --- the four facts --------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_without_prompts_it_is_the_plain_encoder(case, padded):
    token_ids_BN = case.tokens(MASK_BN if padded else torch.ones_like(MASK_BN))
    mask_BN = MASK_BN if padded else None
    encoder = copy.deepcopy(case.encoder).double()
    with exact_rotations():
        plain = _plain(case.parameters, case.encoder.layers).double()(
            input_ids=token_ids_BN,
            attention_mask=None if mask_BN is None else mask_BN.long(),
            output_hidden_states=True,
        )
    hiddens = encoder(token_ids_BN, mask_BN, all_layers=True)
    last = encoder(token_ids_BN, mask_BN)
    assert len(hiddens) == encoder.layers
    seen_BN = torch.ones_like(MASK_BN) if mask_BN is None else mask_BN
    for ours, theirs in zip(
        (*hiddens, last), (*plain.hidden_states[1:], plain.last_hidden_state), strict=True
    ):
        torch.testing.assert_close(ours[seen_BN], theirs[seen_BN], rtol=0, atol=1e-11)


@torch.no_grad()
def test_padding_changes_nothing(case):
    """In float64: a float32 product rounds differently for another length."""
    encoder = copy.deepcopy(case.encoder).double()
    token_ids_BN, (key, value) = case.tokens(), (prompt.double() for prompt in case.prompts())
    padded = encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value))
    for row, length in enumerate(LENGTHS.tolist()):
        at = slice(row, row + 1)
        alone = encoder(token_ids_BN[at, :length], None, KeyValuePrompts(key[at], value[at]))
        torch.testing.assert_close(padded[at, :length], alone, rtol=0, atol=1e-12)


def test_gradients_reach_the_prompts_of_every_layer_and_row(case):
    prompts = [tensor.requires_grad_() for tensor in case.prompts()]
    hidden = case.encoder(case.tokens(), MASK_BN, KeyValuePrompts(*prompts))
    coefficients = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    (hidden * coefficients)[MASK_BN].sum().backward()
    for prompt in prompts:
        norms_BLAK = prompt.grad.norm(dim=-1)
        assert (norms_BLAK > 0).all()


def test_prompts_are_always_visible_and_there_is_no_mask_without_padding(case, kernel, monkeypatch):
    masks = []

    def spy(query, key, value, visible, dropout, scaling):
        masks.append(visible)
        return original(query, key, value, visible, dropout, scaling)

    original = KERNELS[kernel]
    monkeypatch.setitem(KERNELS, kernel, spy)
    encoder = load_encoder(case.parameters).eval()
    key, value = case.prompts()
    with torch.no_grad():
        for mask_BN in (None, torch.ones_like(MASK_BN)):
            encoder(case.tokens(), mask_BN, KeyValuePrompts(key, value))
        column = torch.arange(12)
        distance_NN = column[:, None] - column
        for number, visible in enumerate(masks):
            seen_NN = _seen(encoder, number % encoder.layers, distance_NN)
            if seen_NN.all():
                assert visible is None
            else:
                assert torch.equal(visible[:, 0, :, PROMPTS:], seen_NN.expand(4, -1, -1))
        masks.clear()
        encoder(case.tokens(), MASK_BN, KeyValuePrompts(key, value))
        assert len(masks) == encoder.layers
        for number, visible in enumerate(masks):
            seen_BNN = _seen(encoder, number, distance_NN) & MASK_BN[:, None]
            assert visible.dtype == torch.bool
            visible_BNM = visible[:, 0].expand(4, 12, PROMPTS + 12)[MASK_BN]  # at text
            assert visible_BNM[:, :PROMPTS].all()
            assert torch.equal(visible_BNM[:, PROMPTS:], seen_BNN[MASK_BN])


def _seen(encoder: PromptedEncoder, layer: int, distance_NN: torch.Tensor) -> torch.Tensor:
    """Which text a token sees in a layer of the tiny models, when nothing is padded."""
    kind = encoder.model.config.model_type
    if kind == "gpt2":
        return distance_NN >= 0
    if kind == "modernbert" and layer > 0:
        return distance_NN.abs() <= WINDOW
    return torch.ones_like(distance_NN, dtype=torch.bool)


# --- more that must hold ---------------------------------------------------------------


@torch.no_grad()
def test_the_prompts_of_a_layer_act_from_that_layer_on(case):
    token_ids_BN, (key, value) = case.tokens(), case.prompts()
    before = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value), all_layers=True)
    changed = key.clone()
    changed[:, -1] += 1
    after = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(changed, value), all_layers=True)
    for old, new in zip(before[:-1], after[:-1], strict=True):
        assert torch.equal(old, new)
    assert ((after[-1] - before[-1]).abs().amax(dim=-1)[MASK_BN] > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("what", ["tokens", "prompts"])
def test_a_changed_row_changes_that_row_only(case, what):
    token_ids_BN, (key, value) = case.tokens(), case.prompts()
    before = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value))
    if what == "tokens":
        token_ids_BN[2, 0] += 1  # the first token, which all others see
    else:
        value[2] += 1
    after = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value))
    same = torch.tensor([True, True, False, True])
    assert torch.equal(before[same], after[same])
    assert (before[2, : LENGTHS[2]] != after[2, : LENGTHS[2]]).any(dim=-1).all()


@torch.no_grad()
def test_the_order_of_the_prompts_does_not_matter(case):
    token_ids_BN, (key, value) = case.tokens(), case.prompts()
    order = torch.tensor([2, 0, 1])
    straight = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value))
    turned = case.encoder(
        token_ids_BN, MASK_BN, KeyValuePrompts(key[..., order, :], value[..., order, :])
    )
    torch.testing.assert_close(straight[MASK_BN], turned[MASK_BN], rtol=0, atol=4e-6)


SELECTIONS = {
    "in order": [(0, 2), (0, 5), (1, 1), (2, 3), (2, 6), (3, 8)],
    "any order, an empty row": [(3, 9), (0, 11), (3, 0), (0, 0), (1, 4), (3, 4)],
    "one row": [(2, 5)],
    "one position twice": [(1, 3), (1, 3), (0, 1)],
}


@pytest.mark.parametrize("with_prompts", [True, False])
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_last_layer_at_is_the_full_forward(tiny_case, selection, with_prompts):
    _compare_last_layer_at(tiny_case, selection, with_prompts)


def test_last_layer_at_is_the_full_forward_of_the_embedded_model(kernel):
    case = _load("bert", None, kernel)
    _compare_last_layer_at(case, SELECTIONS["any order, an empty row"], True)


def _compare_last_layer_at(
    case: Case, selection: list[tuple[int, int]], with_prompts: bool
) -> None:
    encoder = copy.deepcopy(case.encoder).double()  # so that only rounding is forgiven
    rows_S, columns_S = torch.tensor(selection).T
    results = []
    for short in (False, True):
        prompts = [prompt.double().requires_grad_() for prompt in case.prompts()]
        given_prompts = prompts if with_prompts else []
        written = KeyValuePrompts(*prompts) if with_prompts else None
        encoder.zero_grad()
        if short:
            hidden_SH = encoder(case.tokens(), MASK_BN, written, last_layer_at=(rows_S, columns_S))
        else:
            hidden_SH = encoder(case.tokens(), MASK_BN, written)[rows_S, columns_S]
        coefficients = torch.randn(hidden_SH.shape, generator=torch.Generator().manual_seed(5))
        (hidden_SH * coefficients).sum().backward()
        gradients = {name: p.grad for name, p in encoder.named_parameters()}
        gradients |= {f"prompt {i}": prompt.grad for i, prompt in enumerate(given_prompts)}
        results.append((hidden_SH.detach(), gradients))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_dropout_acts_in_training_only(case):
    encoder, (key, value) = case.encoder, case.prompts()
    with torch.no_grad():
        calm = [encoder(case.tokens(), MASK_BN, KeyValuePrompts(key, value)) for _ in range(2)]
        encoder.train()
        try:
            torch.manual_seed(0)
            first = encoder(case.tokens(), MASK_BN, KeyValuePrompts(key, value))
            second = encoder(case.tokens(), MASK_BN, KeyValuePrompts(key, value))
            torch.manual_seed(0)
            again = encoder(case.tokens(), MASK_BN, KeyValuePrompts(key, value))
        finally:
            encoder.eval()
    assert torch.equal(*calm)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


@torch.no_grad()
def test_bf16_autocast_stays_near_float32(case):
    token_ids_BN, (key, value) = case.tokens(), case.prompts()
    exact = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value))[MASK_BN]
    with torch.autocast("cpu", torch.bfloat16):
        rough = case.encoder(token_ids_BN, MASK_BN, KeyValuePrompts(key, value))[MASK_BN].float()
    assert ((rough - exact).norm() / exact.norm()).item() < 0.03


def test_state_survives_a_round_trip(case):
    other = load_encoder(case.parameters).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(case.encoder.state_dict())
    with torch.no_grad():
        assert torch.equal(
            other(case.tokens(), MASK_BN, KeyValuePrompts(*case.prompts())),
            case.encoder(case.tokens(), MASK_BN, KeyValuePrompts(*case.prompts())),
        )


def test_it_is_loaded_in_silence(case, capfd):
    load_encoder(case.parameters)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_generator_fits_the_encoder(case):
    encoder = case.encoder
    generator = PromptGenerator(
        representation_size=7,
        layers=encoder.layers,
        heads=encoder.heads,
        head_size=encoder.head_size,
        count=PROMPTS,
    )
    representation_BD = torch.ones(4, 7)
    hidden = encoder(case.tokens(), MASK_BN, generator(representation_BD))
    hidden[MASK_BN].square().sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())
    encoder.zero_grad()


@torch.no_grad()
def test_the_first_layers_are_kept(tiny_case):
    """Of a pre-norm family, the last norm stands after the last layer that is kept."""
    full, token_ids_BN = tiny_case.encoder, tiny_case.tokens()
    parameters = tiny_case.parameters.model_copy(update={"keep_layers": 2})
    two = load_encoder(parameters).eval()
    assert two.layers == 2
    first, second = two(token_ids_BN, MASK_BN, all_layers=True)
    expected = full(token_ids_BN, MASK_BN, all_layers=True)
    norm = full.family.last_norm(full.model)
    assert torch.equal(first[MASK_BN], expected[0][MASK_BN])
    assert torch.equal(second[MASK_BN], norm(expected[1])[MASK_BN])


# --- causal families -------------------------------------------------------------------

CAUSAL = [family for family, entry in FAMILIES.items() if entry.causal]


@pytest.mark.parametrize("family", CAUSAL)
def test_a_token_depends_on_no_later_one_and_on_all_prompts(family, kernel, folders):
    encoder = copy.deepcopy(_load(family, folders[family], kernel).encoder).double()
    case = Case(encoder, _load(family, folders[family], kernel).parameters, PADDING[family])
    prompts = [prompt.double().requires_grad_() for prompt in case.prompts()]
    token_ids_BN = case.tokens()
    hidden = encoder(token_ids_BN, MASK_BN, KeyValuePrompts(*prompts))
    coefficients_H = torch.randn(
        encoder.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    for row, column in ((0, 0), (0, 11), (1, 4), (2, 6)):
        gradients = torch.autograd.grad(
            hidden[row, column] @ coefficients_H, prompts, retain_graph=True
        )
        for gradient in gradients:
            assert (gradient[row].norm(dim=-1) > 0).all()
        changed = token_ids_BN.clone()
        changed[row, column + 1 :] = 5 + (changed[row, column + 1 :] + 7) % 90
        with torch.no_grad():
            after = encoder(changed, MASK_BN, KeyValuePrompts(*prompts))
        torch.testing.assert_close(
            after[row, : column + 1], hidden[row, : column + 1].detach(), rtol=0, atol=1e-13
        )
        later = slice(column + 1, int(LENGTHS[row]))
        assert (after[row, later] != hidden[row, later]).any(dim=-1).all()


# --- limits ----------------------------------------------------------------------------


@torch.no_grad()
def test_the_longest_text_fits_and_one_more_token_does_not(case):
    limit = case.encoder.position_limit
    assert limit == (512 if case.parameters.keep_layers else POSITIONS)
    token_ids_BN = torch.full((1, limit + 1), 7)
    assert case.encoder(token_ids_BN[:, :limit], None).isfinite().all()
    with pytest.raises(ValueError, match=rf"at most {limit} tokens .* got {limit + 1}"):
        case.encoder(token_ids_BN, None)


def test_prompts_of_a_wrong_shape_are_an_error(case):
    key, value = case.prompts()
    with pytest.raises(ValueError, match=r"key_BLAKd must have shape \(B, L, A, K, d\)"):
        case.encoder(case.tokens(), MASK_BN, KeyValuePrompts(key[:, :1], value))
    with pytest.raises(ValueError, match="value_BLAKd must have shape"):
        case.encoder(case.tokens(), MASK_BN, KeyValuePrompts(key, value[:2]))
    with pytest.raises(ValueError, match="last_layer_at must be None with all_layers"):
        case.encoder(case.tokens(), MASK_BN, all_layers=True, last_layer_at=(key, value))


# --- properties ------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5),
    extra=st.integers(0, 4),
    count=st.integers(0, 4),
    seed=st.integers(0, 1000),
    family=st.sampled_from(list(FAMILIES)),
)
def test_any_padding_any_batch_gives_the_same_text(folders, lengths, extra, count, seed, family):
    encoder = copy.deepcopy(_load(family, folders[family], "auto").encoder).double()
    generator = torch.Generator().manual_seed(seed)
    shape = (2, len(lengths), encoder.layers, encoder.heads, count, encoder.head_size)
    key, value = torch.randn(shape, dtype=torch.float64, generator=generator)
    texts = [torch.randint(5, 100, (length,), generator=generator) for length in lengths]
    width = max(lengths) + extra
    token_ids_BN = torch.full((len(texts), width), PADDING[family])
    for row, text in enumerate(texts):
        token_ids_BN[row, : len(text)] = text
    mask_BN = torch.arange(width) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = encoder(token_ids_BN, mask_BN, KeyValuePrompts(key, value))
        for row, text in enumerate(texts):
            at = slice(row, row + 1)
            alone = encoder(text[None], None, KeyValuePrompts(key[at], value[at]))
            torch.testing.assert_close(together[at, : len(text)], alone, rtol=0, atol=1e-12)
