"""Repeated keys against a count with tuples in a Python set."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.modality import repeated
from clickprompt.modality.repeated import DistinctKeys, RepeatedKeys, key_hashes, value_hashes

TEXTS = st.one_of(
    st.none(), st.text(max_size=20), st.sampled_from(["", "a", "a\0", "\0", "12345678"])
)
KEYS = st.lists(st.tuples(TEXTS, st.one_of(st.none(), st.integers(-3, 3)), st.integers(0, 2)))


def twin(keys: list[tuple]) -> tuple[int, list[tuple[int, int]]]:
    """Rows that repeat an earlier one, and the first two rows of each repeated key."""
    first: dict[tuple, int] = {}
    pairs: dict[tuple, tuple[int, int]] = {}
    for row, key in enumerate(keys):
        if key in first:
            pairs.setdefault(key, (first[key], row))
        first.setdefault(key, row)
    return len(keys) - len(first), sorted(pairs.values(), key=lambda pair: pair[1])


def columns(keys: list[tuple]) -> list[pa.Array]:
    texts, numbers, times = zip(*keys, strict=True) if keys else ((), (), ())
    return [
        pa.array(texts, pa.string()),
        pa.array(numbers, pa.int64()),
        pa.array(times, pa.int64()),
    ]


@settings(max_examples=150, deadline=None)
@given(keys=KEYS, cuts=st.lists(st.integers(0, 40), max_size=3), in_memory=st.integers(1, 9))
def test_any_keys_in_any_batches_are_counted_as_by_a_set(keys, cuts, in_memory):
    with RepeatedKeys(in_memory) as counter:
        ends = sorted({0, len(keys), *(min(cut, len(keys)) for cut in cuts)})
        for start, stop in pairwise(ends):
            counter.add(key_hashes(columns(keys[start:stop])))
        assert counter.count() == twin(keys)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=30), st.integers(0, 10))
def test_a_text_has_one_hash_in_every_layout(texts, start):
    plain = pa.array(texts, pa.string())
    expected = value_hashes(plain)
    for other in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert (value_hashes(plain.cast(other)) == expected).all()
    # a slice shares the buffers, and its bytes lie next to those of its neighbours
    assert (value_hashes(plain[start:]) == expected[start:]).all()
    groups = Counter(zip(texts, expected.tolist(), strict=True))
    assert len(groups) == len(set(texts)) == len(set(expected.tolist()))


def test_many_short_ids_and_numbers_have_as_many_hashes():
    numbers = np.arange(-100_000, 100_000)
    assert len(np.unique(value_hashes(pa.array(numbers)))) == 200_000
    assert len(np.unique(value_hashes(pa.array(numbers.astype(str))))) == 200_000


def test_hashes_use_all_bits_evenly():
    """Parts of the range hold about equally many, which bounds the memory of a part."""
    hashes = value_hashes(pa.array(np.arange(64_000).astype(str)))
    counts = np.bincount((hashes >> np.uint64(58)).astype(int), minlength=64)
    assert abs(counts - 1000).max() < 6 * np.sqrt(1000)


def test_order_of_the_columns_counts():
    one, other = pa.array(["1", "2"]), pa.array(["2", "1"])
    assert len(set(key_hashes([one, other]).tolist())) == 2


def test_integers_stay_as_they_are():
    column = pa.array([1, 2, 3])
    key_hashes([column, column])
    assert column.to_pylist() == [1, 2, 3]


def test_hashes_beyond_memory_go_to_a_file():
    with RepeatedKeys(in_memory=100) as counter:
        counter.add(np.arange(150, dtype=np.uint64))
        assert counter._file._rolled  # type: ignore[attr-defined]
        counter.add(np.array([149, 7], dtype=np.uint64))
        assert counter.count() == (2, [(149, 150), (7, 151)])


def test_examples_are_limited():
    with RepeatedKeys() as counter:
        counter.add(np.repeat(np.arange(500, dtype=np.uint64), 3))
        repeats, examples = counter.count()
    assert repeats == 1000
    assert len(examples) == repeated.EXAMPLES
    assert all(two == one + 1 for one, two in examples)


@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_different_keys_over_batches(monkeypatch, at_once):
    monkeypatch.setattr(repeated, "DISTINCT_AT_ONCE", at_once)
    draw, keys, seen = np.random.default_rng(0), DistinctKeys(), set()
    for _ in range(20):
        batch = draw.integers(0, 300, 50).astype(np.uint64)
        keys.add(batch)
        seen |= set(batch.tolist())
    assert keys.count() == len(seen)
    assert keys.count() == len(seen)
