"""Batches: the gather against a slow twin, the order of rows, the masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.modality import TextBatcher, mask_tokens, shuffled_batches
from clickprompt.parameters import MaskingParameters
from tests.reference.modality_twins import cut_one_by_one, row_tokens

MASK, PAD = 103, 0


@pytest.mark.parametrize("max_tokens", [512, 34, 20, 9, 3])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_tokens_against_the_slow_twin(convert, tmp_path, max_tokens, multiple_of):
    model_input = convert(tmp_path / "model_input", max_tokens=max_tokens)
    tokens = [
        model_input.piece_tokens[start:stop].tolist()
        for start, stop in zip(
            model_input.piece_offsets, model_input.piece_offsets[1:], strict=False
        )
    ]
    batcher = TextBatcher(model_input)
    assert batcher.mask_id == MASK
    for rows in (np.arange(60), np.array([200, 3, 3, 77]), np.array([5])):
        found, lengths = batcher.tokens(rows, multiple_of)
        expected = [
            row_tokens([tokens[p] for p in model_input.pieces[row]], 101, 102, max_tokens)
            for row in rows
        ]
        longest = max(map(len, expected))
        width = min(-(-longest // multiple_of) * multiple_of, max_tokens)
        assert found.dtype == lengths.dtype == np.int64
        assert found.shape == (len(rows), width)
        assert lengths.tolist() == [len(row) for row in expected]
        assert found.tolist() == [row + [PAD] * (width - len(row)) for row in expected]
        assert (lengths == model_input.text_lengths()[rows]).all()
        maskable = batcher.maskable(found, lengths)
        assert (maskable.sum(axis=1) == lengths - 2).all()
        assert not maskable[(found == 101) | (found == 102) | (found == PAD)].any()


def test_text_of_a_row_is_its_sentence(model_input, views, word_piece):
    found, lengths = TextBatcher(model_input).tokens(np.arange(40))
    for row in range(40):
        whole = word_piece.token_ids([views.texts[row]])[0]
        assert found[row, : lengths[row]].tolist() == [101, *whole, 102]


@pytest.mark.parametrize("max_tokens", [512, 34, 20, 9, 3])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_fields_of_tokens_against_the_slow_twin(convert, tmp_path, max_tokens, multiple_of):
    model_input = convert(tmp_path / "model_input", max_tokens=max_tokens)
    piece_lengths = np.diff(model_input.piece_offsets)
    batcher = TextBatcher(model_input)
    cut = 0
    for rows in (np.arange(60), np.array([200, 3, 3, 77]), np.array([5])):
        token_ids_BN, lengths_B = batcher.tokens(rows, multiple_of)
        expected = []
        for row in rows:
            whole = [int(piece_lengths[piece]) for piece in model_input.pieces[row]]
            kept = cut_one_by_one(whole, max_tokens - 2)
            cut += kept != whole
            inside = [field for field, count in enumerate(kept) for _ in range(count)]
            expected.append([-1, *inside] + [-1] * (token_ids_BN.shape[1] - len(inside) - 1))
        found = batcher.fields(rows, token_ids_BN, lengths_B)
        assert found.dtype == np.int64
        assert found.tolist() == expected
    assert (cut > 0) == (max_tokens < 512)


@given(
    rows=st.integers(0, 700),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 50),
)
@settings(max_examples=100, deadline=None)
def test_every_row_is_in_one_batch(rows, batch_size, seed, epoch):
    lengths = np.random.default_rng(rows).integers(5, 60, rows)
    for given_lengths in (None, lengths):
        batches = shuffled_batches(np.arange(rows), batch_size, seed, epoch, given_lengths)
        assert sorted(int(row) for batch in batches for row in batch) == list(range(rows))
        sizes = [len(batch) for batch in batches]
        assert len(sizes) == -(-rows // batch_size)
        assert sum(size < batch_size for size in sizes) <= 1


def test_lengths_sort_inside_batches_only_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(20, 80, 20_000)
    rows = np.arange(20_000)
    plain = shuffled_batches(rows, 64, seed=1, epoch=0)
    first = shuffled_batches(rows, 64, seed=1, epoch=0, lengths=lengths)
    for batch, same in zip(first, plain, strict=True):
        assert sorted(batch) == sorted(same)
        assert (np.diff(lengths[batch]) >= 0).all()
    again = shuffled_batches(rows, 64, seed=1, epoch=0)
    assert all((a == b).all() for a, b in zip(plain, again, strict=True))
    for other in (shuffled_batches(rows, 64, 1, 1), shuffled_batches(rows, 64, 2, 0)):
        assert not (np.concatenate(plain) == np.concatenate(other)).mean() > 0.01


def test_shuffled_batches_of_given_rows():
    rows = np.array([10, 20, 30, 40, 50])
    batches = shuffled_batches(rows, 2, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(np.concatenate(batches)) == rows.tolist()


# --- masks -------------------------------------------------------------------------------


def texts(rows: int = 4000, width: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids 1000..1999 between cls and sep, of random lengths, and what is maskable."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, width + 1, rows)
    column = np.arange(width)
    maskable = (column >= 1) & (column < lengths[:, None] - 1)
    token_ids = np.where(maskable, draw.integers(1000, 2000, (rows, width)), PAD)
    token_ids[:, 0] = 101
    token_ids[np.arange(rows), lengths - 1] = 102
    return token_ids, maskable


def mask(token_ids, maskable, masking=None, **changed):
    arguments = {
        "mask_id": MASK,
        "random_tokens": np.arange(5000, 6000),
        "allowed_tokens": None,
        "seed": 0,
        "epoch": 0,
        "step": 0,
    }
    return mask_tokens(token_ids, maskable, masking or MaskingParameters(), **(arguments | changed))


def test_shares_of_selected_masked_random_and_kept_tokens():
    token_ids, maskable = texts()
    masked, rows, columns, targets = mask(token_ids, maskable)
    long_rows = maskable.sum(axis=1) >= 30  # short ones get more: at least one each
    share = long_rows[rows].sum() / maskable[long_rows].sum()
    assert abs(share - 0.15) < 0.006
    replaced = masked[rows, columns]
    is_mask, is_random = replaced == MASK, replaced >= 5000
    assert abs(is_mask.mean() - 0.8) < 0.012
    assert abs(is_random.mean() - 0.1) < 0.012
    assert (replaced[~is_mask & ~is_random] == targets[~is_mask & ~is_random]).all()
    assert np.unique(replaced[is_random]).size > 600  # drawn from all candidates


def test_only_selected_positions_change_and_targets_are_the_truth():
    token_ids, maskable = texts()
    before = token_ids.copy()
    masked, rows, columns, targets = mask(token_ids, maskable)
    assert (token_ids == before).all()
    assert maskable[rows, columns].all()
    assert (targets == token_ids[rows, columns]).all()
    restored = masked.copy()
    restored[rows, columns] = targets
    assert (restored == token_ids).all()
    assert all(array.dtype == np.int64 for array in (masked, rows, columns, targets))
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(rows)


@pytest.mark.parametrize("share", [0.01, 0.15])
def test_every_sample_has_a_selected_token(share):
    token_ids, maskable = texts()
    _, rows, _, _ = mask(token_ids, maskable, MaskingParameters(share=share))
    assert set(rows.tolist()) == set(range(len(token_ids)))


def test_the_forced_token_is_at_a_random_place():
    token_ids, maskable = texts(2000, 12)
    maskable[:] = False
    maskable[:, 1:11] = True
    _, _, columns, _ = mask(token_ids, maskable, MaskingParameters(share=1e-9))
    counts = np.bincount(columns, minlength=12)
    assert len(columns) == 2000
    assert counts[1:11].min() > 130
    assert counts[[0, 11]].sum() == 0


def test_only_allowed_tokens_are_selected():
    token_ids, maskable = texts()
    allowed = np.arange(1000, 1100)
    _, rows, _, targets = mask(token_ids, maskable, allowed_tokens=allowed)
    assert set(targets.tolist()) <= set(allowed.tolist())
    has_one = (np.isin(token_ids, allowed) & maskable).any(axis=1)
    assert set(rows.tolist()) == set(np.flatnonzero(has_one).tolist())


def test_a_row_without_text_is_left_alone():
    token_ids, maskable = texts(5, 6)
    maskable[2] = False
    _, rows, _, _ = mask(token_ids, maskable)
    assert set(rows.tolist()) == {0, 1, 3, 4}
    masked, rows, _, targets = mask(token_ids, np.zeros_like(maskable))
    assert (masked == token_ids).all()
    assert len(rows) == len(targets) == 0


def test_masks_depend_on_seed_epoch_and_step_only():
    token_ids, maskable = texts(200)
    base = mask(token_ids, maskable)
    np.random.default_rng(9).random(10)
    mask(token_ids, maskable, step=5)
    again = mask(token_ids, maskable)
    assert all((a == b).all() for a, b in zip(base, again, strict=True))
    for changed in ({"seed": 1}, {"epoch": 1}, {"step": 1}):
        other = mask(token_ids, maskable, **changed)
        same = set(zip(*base[1:3], strict=True)) & set(zip(*other[1:3], strict=True))
        assert len(same) < 0.3 * len(base[1])


def test_padding_does_not_change_the_masks():
    token_ids, maskable = texts(100)
    wide = np.pad(token_ids, ((0, 0), (0, 9)), constant_values=PAD)
    wide_maskable = np.pad(maskable, ((0, 0), (0, 9)))
    base, padded = mask(token_ids, maskable), mask(wide, wide_maskable)
    assert (padded[0][:, :40] == base[0]).all()
    assert all((a == b).all() for a, b in zip(base[1:], padded[1:], strict=True))


def test_other_shares():
    token_ids, maskable = texts()
    masking = MaskingParameters(share=0.3, mask=0.0, random=1.0)
    masked, rows, columns, _ = mask(token_ids, maskable, masking)
    assert (masked[rows, columns] >= 5000).all()
    masking = MaskingParameters(share=0.3, mask=0.0, random=0.0)
    masked, rows, _, _ = mask(token_ids, maskable, masking)
    assert (masked == token_ids).all()
    assert len(rows) > 0
