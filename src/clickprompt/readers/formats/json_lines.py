"""Published files with one record a line -> records or columns, as a stream.

A line is strict JSON or, as in some releases of 2014, a Python literal with single quotes.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from clickprompt.readers.formats.line_blocks import LineBlocks, example
from clickprompt.readers.formats.text_table import TextTable
from clickprompt.readers.report import ReadReport


def read_records(
    files: Mapping[str, Path], name: str, *, kind: str, report: ReadReport
) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Read one published file, record after record.

    Args:
        files: file name -> path.
        name: file name; ``name.gz`` serves too.
        kind: ``dropped`` for ratings (their lines are counted as ``rows_read``) or ``skipped``,
            where the report counts lines that hold no record.
        report: gets all events and, after the last line, the file's sha256.

    Yields:
        Line number (from 1), line and record.

    Raises:
        ValueError: the file is not given, empty, truncated, or no UTF-8 text in lines.
    """
    source = LineBlocks(files, name, kind=kind, report=report)
    for block in source:
        yield from _records(source, block)


def read_columns(
    files: Mapping[str, Path],
    name: str,
    schema: pa.Schema,
    cells: Callable[[int, dict[str, Any]], tuple[Any, ...] | str],
    *,
    kind: str,
    report: ReadReport,
) -> Iterator[TextTable]:
    """Read some keys of one published file, a block of lines at a time.

    A block in which every line is a record and every value is of its key's type is parsed inside
    Arrow, several times faster than line by line; any other block is read as ``read_records`` does.
    The outcome is the same, but that a value under another key may then be of any depth and size.

    Args:
        files: file name -> path.
        name: file name; ``name.gz`` serves too.
        schema: key -> type; a missing key is null.
        cells: line number and record -> cells in the schema's order and types, or the reason why
            the line cannot be used. It may turn a value of another type into the schema's.
        kind: as in ``read_records``; also where the report counts lines that ``cells`` refuses.
        report: as in ``read_records``.

    Yields:
        The rows of a block in the schema's types, never none.

    Raises:
        ValueError: as in ``read_records``.
    """
    source = LineBlocks(files, name, kind=kind, report=report)
    for block in source:
        table = _plain_block(block, schema)
        if table is not None:
            first = source.count(table.num_rows)
            numbers = np.arange(first, first + table.num_rows, dtype=np.int64)
            columns = {key: table[key].combine_chunks() for key in schema.names}
            yield TextTable(name, kind, ", ", columns, numbers)
            continue
        lines, rows = [], []
        for number, line, record in _records(source, block):
            found = cells(number, record)
            if isinstance(found, str):
                report.add(kind, found, name, 1, [(number, example(line))])
            else:
                lines.append(number)
                rows.append(found)
        if rows:
            columns = {
                field.name: pa.array(column, field.type)
                for field, column in zip(schema, zip(*rows, strict=True), strict=True)
            }
            yield TextTable(name, kind, ", ", columns, np.array(lines, dtype=np.int64))


def _records(source: LineBlocks, block: bytes) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    for number, line in source.lines(block):
        record = _parse(line)
        if record is not None:
            yield number, line, record
        elif line.endswith(b"\n"):
            source.report.add(
                source.kind, "malformed_line", source.name, 1, [(number, example(line))]
            )
        else:
            raise ValueError(
                f"{source.path} must end with a whole line, got a truncated file: line {number} is "
                f"no whole record: {example(line)!r}"
            )


def _plain_block(block: bytes, schema: pa.Schema) -> pa.Table | None:
    """The block as columns, None unless each of its lines is one record of the schema's types."""
    lines = block.count(b"\n")
    # lines that begin with { and end with } cannot share an object, for a comma would be missing
    if not (
        block.startswith(b"{")
        and block.endswith(b"}\n")
        and block.count(b"}\n{") == lines - 1
        and _is_utf8(block)
    ):
        return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    return table if table.num_rows == lines else None


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, None where it holds none."""
    try:
        text = line.decode("utf-8").strip()
        # only a Python literal can begin so; literal_eval takes constants and runs nothing
        record = _literal(text) if text.startswith("{'") else json.loads(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None  # the last two: brackets nested too deep
    return record if isinstance(record, dict) else None


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown escapes in somebody's title
        return ast.literal_eval(text)
