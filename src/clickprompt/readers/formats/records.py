"""Values of JSON records: which can be used, and rows of them as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from clickprompt.readers.formats.text_table import TextTable

CHUNK_ROWS = 100_000  # Python objects of so many rows are in memory at once


def collect(
    rows: Iterable[tuple[Any, ...]], schema: Mapping[str, pa.DataType], name: str, kind: str
) -> TextTable:
    """Put rows of (line number, cells) into columns, a chunk at a time.

    Args:
        rows: line number and one cell a column.
        schema: column -> Arrow type; dictionary types hold each value once.
        name: of the file, for the report.
        kind: ``dropped`` or ``skipped``, where the report counts rows that are taken out later.
    """
    types = (pa.int64(), *schema.values())
    chunks: list[list[pa.Array]] = [[pa.array([], of)] for of in types]
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        for column, cells, of in zip(chunks, zip(*chunk, strict=True), types, strict=True):
            column.append(pa.array(cells, of))
    lines, *columns = [
        pa.chunked_array(column).unify_dictionaries().combine_chunks() for column in chunks
    ]
    return TextTable(name, kind, ", ", dict(zip(schema, columns, strict=True)), lines.to_numpy())


def wrong_id(value: Any) -> str | None:
    """The reason why ``value`` cannot be an id, with a place for the column."""
    if value is None or value == "":
        return "empty_{}"
    return None if isinstance(value, str) and encodable(value) else "{}_is_not_text"


def encodable(text: str) -> bool:
    r"""False for half a surrogate pair, which JSON can hold (``"\ud83d"``) and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def joined_surrogates(text: str) -> str:
    """Text in which halves of one surrogate pair are joined and a lone half is U+FFFD."""
    if encodable(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def finite_number(value: Any) -> float | None:
    """A number, or text that is one; None where it is neither or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
