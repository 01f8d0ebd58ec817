"""The layouts that are no keys and values: hidden states, and prompts in front of the text."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel

from clickprompt.parameters import PLMParameters
from clickprompt.plm import PromptedEncoder, load_encoder, pool
from clickprompt.prompts import HiddenStatePrompts, InputPrompts, KeyValuePrompts
from tests.plm.tiny import PADDING, POSITIONS, save_tiny

FAMILIES = ("bert", "roberta")
LAYOUTS = (HiddenStatePrompts, InputPrompts)
PROMPTS = 3
LENGTHS = torch.tensor([12, 9, 7, 10])
MASK_BN = torch.arange(12) < LENGTHS[:, None]
EXACT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in made.items():
        save_tiny(folder, family)
    return made


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(params=["sdpa", "matmul"])
def encoder(request, family, folders) -> PromptedEncoder:
    parameters = PLMParameters(
        source=str(folders[family]), keep_layers=None, attention=request.param
    )
    return load_encoder(parameters).double().eval()


def tokens(family: str, mask_BN: torch.Tensor = MASK_BN) -> torch.Tensor:
    token_ids_BN = torch.randint(5, 100, mask_BN.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(mask_BN, token_ids_BN, PADDING[family])


def vectors(layout: type, encoder: PromptedEncoder, batch: int = 4) -> torch.Tensor:
    shape = (batch, PROMPTS, encoder.embedding_size)
    if layout is HiddenStatePrompts:
        shape = (batch, encoder.layers, PROMPTS, encoder.hidden_size)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loss_of(hidden: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """A scalar in which every number of the text counts differently."""
    weights = torch.randn(
        hidden[at].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    return (weights * hidden[at]).sum()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# --- against something else --------------------------------------------------------------


def test_hidden_states_are_projected_by_the_layers_own_matrices(encoder, family):
    """Keys and values are made here by hand, gradients of the matrices included."""
    given = [vectors(HiddenStatePrompts, encoder).requires_grad_() for _ in range(2)]
    by_hand = copy.deepcopy(encoder)
    keys, values = [], []
    for number, layer in enumerate(by_hand.model.encoder.layer):
        own = layer.attention.self
        for part, made in ((own.key, keys), (own.value, values)):
            projected = torch.einsum("bkh,oh->bko", given[1][:, number], part.weight) + part.bias
            made.append(projected.unflatten(2, (encoder.heads, -1)).transpose(1, 2))
    prompts = KeyValuePrompts(torch.stack(keys, dim=1), torch.stack(values, dim=1))
    found = encoder(tokens(family), MASK_BN, HiddenStatePrompts(given[0]))
    expected = by_hand(tokens(family), MASK_BN, prompts)
    loss_of(found, MASK_BN).backward()
    loss_of(expected, MASK_BN).backward()
    torch.testing.assert_close(found[MASK_BN], expected[MASK_BN], **EXACT)
    torch.testing.assert_close(given[0].grad, given[1].grad, **EXACT)
    torch.testing.assert_close(gradients(encoder), gradients(by_hand), **EXACT)


@pytest.mark.parametrize("padded", [True, False])
def test_prompts_in_front_are_inputs_like_words(encoder, family, folders, padded):
    """transformers' own model on the concatenated embeddings, forward and gradient."""
    mask_BN = MASK_BN if padded else torch.ones_like(MASK_BN)
    token_ids_BN = tokens(family, mask_BN)
    given = [vectors(InputPrompts, encoder).requires_grad_() for _ in range(2)]
    plain: Any = AutoModel.from_pretrained(folders[family], add_pooling_layer=False)
    plain = plain.double().eval()
    words_BNE = plain.get_input_embeddings()(token_ids_BN)
    mask_BM = torch.cat((torch.ones(4, PROMPTS, dtype=torch.bool), mask_BN), dim=1)
    expected = plain(
        inputs_embeds=torch.cat((given[1], words_BNE), dim=1),
        attention_mask=mask_BM.long(),
        output_hidden_states=True,
    ).hidden_states[1:]
    prompts = InputPrompts(given[0])
    found = encoder(
        token_ids_BN, mask_BN if padded else None, prompts, all_layers=True, with_prompts=True
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[mask_BM], theirs[mask_BM], **EXACT)
    text = encoder(token_ids_BN, mask_BN, prompts)
    torch.testing.assert_close(text[mask_BN], expected[-1][:, PROMPTS:][mask_BN], **EXACT)
    loss_of(found[-1], mask_BM).backward()
    loss_of(expected[-1], mask_BM).backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, **EXACT)
    ours, theirs = gradients(encoder.model), gradients(plain)
    # RoBERTa takes the positions of embeddings as those of text, from the padding index on.
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_pooling_sees_the_text_or_the_prompts_too(encoder, family):
    prompts = InputPrompts(vectors(InputPrompts, encoder))
    whole = encoder(tokens(family), MASK_BN, prompts, with_prompts=True)
    text = encoder(tokens(family), MASK_BN, prompts)
    torch.testing.assert_close(whole[:, PROMPTS:], text)
    mask_BM = torch.cat((torch.ones(4, PROMPTS, dtype=torch.bool), MASK_BN), dim=1)
    for row, length in enumerate(LENGTHS.tolist()):
        mean = sum(whole[row, column] for column in range(PROMPTS + length)) / (PROMPTS + length)
        torch.testing.assert_close(pool(whole, mask_BM, "mean")[row], mean)
        mean = sum(text[row, column] for column in range(length)) / length
        torch.testing.assert_close(pool(text, MASK_BN, "mean")[row], mean)


# --- properties --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_padding_changes_nothing(encoder, family, layout):
    given, token_ids_BN = vectors(layout, encoder), tokens(family)
    together = encoder(token_ids_BN, MASK_BN, layout(given))
    for row, length in enumerate(LENGTHS.tolist()):
        at = slice(row, row + 1)
        alone = encoder(token_ids_BN[at, :length], None, layout(given[at]))
        torch.testing.assert_close(together[at, :length], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_reach_every_prompt_of_every_row(encoder, family, layout):
    given = vectors(layout, encoder).requires_grad_()
    loss_of(encoder(tokens(family), MASK_BN, layout(given)), MASK_BN).backward()
    assert (given.grad.norm(dim=-1) > 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_changed_prompts_change_their_row_only(encoder, family, layout):
    given, token_ids_BN = vectors(layout, encoder), tokens(family)
    before = encoder(token_ids_BN, MASK_BN, layout(given))
    given[2] += 1
    after = encoder(token_ids_BN, MASK_BN, layout(given))
    same = torch.tensor([True, True, False, True])
    assert torch.equal(before[same], after[same])
    assert (before[2, : LENGTHS[2]] != after[2, : LENGTHS[2]]).any(dim=-1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_last_layer_at_is_the_full_forward(encoder, family, layout):
    rows_S, columns_S = torch.tensor([(3, 9), (0, 11), (3, 0), (0, 0), (1, 4), (3, 4)]).T
    results = []
    for short in (True, False):
        encoder.zero_grad()
        given = vectors(layout, encoder).requires_grad_()
        if short:
            hidden_SH = encoder(
                tokens(family), MASK_BN, layout(given), last_layer_at=(rows_S, columns_S)
            )
        else:
            hidden_SH = encoder(tokens(family), MASK_BN, layout(given))[rows_S, columns_S]
        loss_of(hidden_SH, torch.arange(6)).backward()
        results.append((hidden_SH.detach(), given.grad, gradients(encoder)))
    torch.testing.assert_close(*results, **EXACT)


@torch.no_grad()
def test_the_order_in_front_matters_and_the_order_in_a_layer_does_not(encoder, family):
    """Prompts in front have positions."""
    order = torch.tensor([2, 0, 1])
    for layout, axis in ((HiddenStatePrompts, 2), (InputPrompts, 1)):
        given = vectors(layout, encoder)
        straight = encoder(tokens(family), MASK_BN, layout(given))[MASK_BN]
        turned = encoder(tokens(family), MASK_BN, layout(given.index_select(axis, order)))[MASK_BN]
        assert torch.allclose(straight, turned, rtol=0, atol=1e-11) == (axis == 2)


@torch.no_grad()
def test_the_offset_is_added_to_every_position(family, folders):
    """An offset of n is the table of positions without its first n."""
    source = {"source": str(folders[family]), "keep_layers": None}
    shifted = load_encoder(PLMParameters(**source, position_offset=4)).double().eval()
    moved = load_encoder(PLMParameters(**source)).double().eval()
    table = moved.model.embeddings.position_embeddings.weight
    table.copy_(table.roll(-4, dims=0))
    assert (shifted.position_limit, moved.position_limit) == (POSITIONS - 4, POSITIONS)
    prompts = InputPrompts(vectors(InputPrompts, moved))
    for given in (None, prompts):
        torch.testing.assert_close(
            shifted(tokens(family), MASK_BN, given)[MASK_BN],
            moved(tokens(family), MASK_BN, given)[MASK_BN],
            rtol=0,
            atol=1e-12,
        )


def test_prompts_of_a_wrong_shape_are_an_error(encoder, family):
    hidden = vectors(HiddenStatePrompts, encoder)
    with pytest.raises(ValueError, match=r"vector_BLKH must have shape \(B, L, K, H\)"):
        encoder(tokens(family), MASK_BN, HiddenStatePrompts(hidden[:, :1]))
    front = vectors(InputPrompts, encoder)
    with pytest.raises(ValueError, match=r"vector_BKE must have shape \(B, K, E\)"):
        encoder(tokens(family), MASK_BN, InputPrompts(front[..., :-1]))
    with pytest.raises(ValueError, match=r"at most 21 tokens .* after 3 prompts\), got 22"):
        encoder(torch.full((4, 22), 7), None, InputPrompts(front))
