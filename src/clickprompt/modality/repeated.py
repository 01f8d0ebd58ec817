"""Repeated and different keys in a stream of batches.

Repeated ones take 8 bytes a row, in memory or in a temporary file.

Rows are told apart by 64-bit hashes of their keys. Equal keys have equal hashes, so "none is
repeated" is exact. Two different keys of n share a hash with probability below n² / 2^65: 0.00007
for 50 million rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

EXAMPLES = 100
DISTINCT_AT_ONCE = 1 << 20
HASHES_IN_MEMORY = 1 << 23  # 64 MiB, and as much again while they are sorted

_READ = 1 << 20  # hashes of one read from the file
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MISSING = np.uint64(0x6A09E667F3BCC909)


def key_hashes(columns: Sequence[pa.Array]) -> np.ndarray:
    """One hash a row of the key that the columns form; (rows,) uint64.

    Args:
        columns: (rows,) text, integers or dictionaries of them; missing values equal each other.
            The type counts: the text "1" is not the number 1.
    """
    combined = value_hashes(columns[0])
    for column in columns[1:]:
        combined *= _ODD
        combined += value_hashes(column)
        _mix(combined)
    return combined


def value_hashes(column: pa.Array) -> np.ndarray:
    """One hash a value; (rows,) uint64, the same in every process and batch."""
    if pa.types.is_dictionary(column.type):
        indices = column.indices.fill_null(len(column.dictionary))
        of_values = np.append(value_hashes(column.dictionary), _MISSING)
        return of_values[indices.to_numpy(zero_copy_only=False)]
    if pa.types.is_integer(column.type):
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
        # a copy, since mixing works in place and the column stays as it is
        hashes = values.astype(np.int64, copy=True).view(np.uint64)
        hashes += _ODD
        _mix(hashes)
    else:
        hashes = _text_hashes(column.cast(pa.large_string()))
    if column.null_count:
        hashes[column.is_null().to_numpy(zero_copy_only=False)] = _MISSING
    return hashes


class RepeatedKeys:
    """Counts the rows whose key an earlier row has.

    Args:
        in_memory: hashes that are held in memory; beyond, they lie in a temporary file.
    """

    def __init__(self, in_memory: int = HASHES_IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._rows = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=8 * in_memory)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, hashes: np.ndarray) -> None:
        """Note the hashes (rows,) uint64 of the next rows."""
        self._file.write(np.ascontiguousarray(hashes).data)
        self._rows += len(hashes)

    def count(self) -> tuple[int, list[tuple[int, int]]]:
        """How many rows repeat the key of an earlier one.

        Returns:
            The number, and for up to ``EXAMPLES`` keys their first two rows, counted from 0 in the
            order of the stream.
        """
        parts = max(1, -(-self._rows // self._in_memory))
        ends = [number * 2**64 // parts for number in range(parts + 1)]
        repeats = 0
        examples: list[np.ndarray] = []
        for low, high in pairwise(ends):
            part = self._between(low, high)
            part.sort()
            again = part[1:][part[1:] == part[:-1]]
            repeats += len(again)
            if sum(map(len, examples)) < EXAMPLES:
                examples.append(np.unique(again)[:EXAMPLES])
        keys = np.sort(np.concatenate(examples))[:EXAMPLES]
        return repeats, self._first_rows(keys)

    def _chunks(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while raw := self._file.read(8 * _READ):
            yield np.frombuffer(raw, np.uint64)

    def _between(self, low: int, high: int) -> np.ndarray:
        """The hashes from ``low`` up to, not including, ``high``."""
        lowest, highest = np.uint64(low), np.uint64(high - 1)
        parts = [chunk[(chunk >= lowest) & (chunk <= highest)] for chunk in self._chunks()]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def _first_rows(self, keys: np.ndarray) -> list[tuple[int, int]]:
        """The first two rows of each key (keys,), sorted; in order of the second row."""
        if len(keys) == 0:
            return []
        rows: list[list[int]] = [[] for _ in keys]
        start = 0
        for chunk in self._chunks():
            at = np.minimum(np.searchsorted(keys, chunk), len(keys) - 1)
            for position in np.flatnonzero(keys[at] == chunk):
                found = rows[at[position]]
                if len(found) < 2:
                    found.append(start + int(position))
            start += len(chunk)
        return sorted(((one, two) for one, two in rows), key=lambda pair: pair[1])


class DistinctKeys:
    """Counts different keys; 8 bytes for each of them are in memory, and some batches more."""

    def __init__(self) -> None:
        self._seen = np.empty(0, np.uint64)
        self._new: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> None:
        """Note the hashes (rows,) uint64 of the next rows."""
        self._new.append(pd.unique(hashes))
        if sum(map(len, self._new)) > max(len(self._seen), DISTINCT_AT_ONCE):
            self.count()

    def count(self) -> int:
        """How many there are so far."""
        self._seen = np.unique(np.concatenate([self._seen, *self._new]))
        self._new = []
        return len(self._seen)


def _text_hashes(texts: pa.LargeStringArray) -> np.ndarray:
    """Hashes of texts, eight bytes of all texts at a time; under a null the result is arbitrary."""
    _, offsets_buffer, data = texts.buffers()
    if len(texts) == 0 or offsets_buffer is None:
        return np.empty(0, np.uint64)
    offsets = np.frombuffer(offsets_buffer, np.int64)[texts.offset :][: len(texts) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    padded = np.zeros(last - first + 8, np.uint8)  # so that the last word can be read whole
    if last > first:
        padded[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    # a word at every byte; unaligned reads are cheaper here than a gather of single bytes
    words: Any = np.ndarray((len(padded) - 7,), "<u8", padded.data, strides=(1,))
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    hashes = lengths.astype(np.uint64) * _ODD
    longest = int(lengths.max())
    for done in range(0, longest, 8):
        if lengths.min() > done:
            rows: Any = slice(None)
        else:
            rows = np.flatnonzero(lengths > done)
        word = words[starts[rows] + done]
        spare = np.clip(8 - (lengths[rows] - done), 0, 7).astype(np.uint64) * np.uint64(8)
        word <<= spare  # bytes of the next text fall out
        word ^= hashes[rows]
        _mix(word)
        hashes[rows] = word
    return hashes


def _mix(hashes: np.ndarray) -> None:
    """Mix the bits of (rows,) uint64 in place, one to one (the finaliser of splitmix64)."""
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
