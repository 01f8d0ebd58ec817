"""Arrays beyond memory: ``.npy`` files that are written and read a piece at a time.

A mapped file counts as memory of the process as far as it was touched, so what passes over a whole
array reads it instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

ROWS_PER_CHUNK = 1 << 18


def chunks(rows: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows in order."""
    for start in range(0, rows, ROWS_PER_CHUNK):
        yield slice(start, min(start + ROWS_PER_CHUNK, rows))


def read_rows(array: np.ndarray, rows: slice) -> np.ndarray:
    """Rows of an array in C order, as a copy where it is mapped from a file."""
    if not isinstance(array, np.memmap) or not isinstance(array.filename, str | os.PathLike):
        return array[rows]
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    count, offset = (rows.stop - rows.start) * width, rows.start * width * array.itemsize
    values = np.fromfile(array.filename, array.dtype, count, offset=array.offset + offset)
    return values.reshape(-1, *array.shape[1:])


class ArrayFile:
    """A new ``.npy`` file of a known shape, filled in any order of its rows.

    Args:
        path: the file; an older one is replaced.
        shape: rows first.
        dtype: of the elements.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        mapped = np.lib.format.open_memmap(path, "w+", dtype, shape)
        self._dtype, self._offset = mapped.dtype, mapped.offset
        self._row_bytes = mapped.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        del mapped
        self._file = path.open("r+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, start: int, rows: np.ndarray) -> None:
        """Put ``rows`` at row ``start``.

        Raises:
            OSError: they could not be written.
        """
        content = np.ascontiguousarray(rows, self._dtype).data.cast("B")
        at = self._offset + start * self._row_bytes
        while content:
            written = os.pwrite(self._file.fileno(), content, at)
            content, at = content[written:], at + written
