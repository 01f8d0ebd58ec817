"""Published files with one record a line -> records, as a stream: a file is never in memory whole.

A line is strict JSON or, as in some releases of 2014, a Python literal with single quotes.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clickprompt.readers.report import EXAMPLE_LENGTH, ReadReport

BLOCK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 1 << 26  # far above any record; a file without line ends stops here


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
    path = _given(files, name)
    blank: list[int] = []
    line, number = b"", 0
    for number, line in _lines(path, name, report):
        if not line.strip():
            blank.append(number)
            continue
        for earlier in blank:  # those after the last record are no gap
            report.add("skipped", "blank_line", name, 1, [(earlier, "")])
        blank = []
        report.rows_read += kind == "dropped"
        record = _parse(line)
        if record is not None:
            yield number, line, record
        elif line.endswith(b"\n"):
            report.add(kind, "malformed_line", name, 1, [(number, example(line))])
        else:
            raise ValueError(
                f"{path} must end with a whole line, got a truncated file: line {number} is no "
                f"whole record: {example(line)!r}"
            )
    if len(blank) == number:
        raise ValueError(f"{path} must hold rows, got an empty file")
    if line.strip() and not line.endswith(b"\n"):
        note = "no line end after the last line: the file may be truncated"
        report.add("repaired", "no_final_line_end", name, 1, [(number, note)])


def example(line: bytes) -> str:
    """The start of a line as text for the report."""
    return line[: 4 * EXAMPLE_LENGTH].decode("utf-8", "replace").strip()[: EXAMPLE_LENGTH + 1]


def _given(files: Mapping[str, Path], name: str) -> Path:
    given = files.get(name, files.get(f"{name}.gz"))
    if given is None:
        raise ValueError(f"files must hold {name}, got {', '.join(sorted(files)) or 'none'}")
    return Path(given)


def _lines(path: Path, name: str, report: ReadReport) -> Iterator[tuple[int, bytes]]:
    """Line number and line, with its line end, of the unpacked file."""
    digest = hashlib.sha256()
    rest, number = b"", 0
    for position, block in enumerate(_blocks(path)):
        digest.update(block)
        if position == 0:
            block = _start(block, path, name, report)
        # bytes.splitlines would cut at a lone carriage return too
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            yield number, line + b"\n"
        if len(rest) > LONGEST_LINE_BYTES:
            raise ValueError(
                f"{path} must hold one record a line, got more than {LONGEST_LINE_BYTES} bytes in "
                f"line {number + 1}: {example(rest)!r}"
            )
    if rest:
        yield number + 1, rest
    report.files[name] = digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    """The unpacked bytes."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    stream: io.BufferedIOBase
    with gzip.open(path) if packed else path.open("rb") as stream:
        try:
            while block := stream.read(BLOCK_BYTES):
                yield block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} must be a whole gzip file, got a damaged one: {error}"
            ) from None


def _start(block: bytes, path: Path, name: str, report: ReadReport) -> bytes:
    """The first block, checked to be text, without its byte order mark."""
    if block[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in block[:1000]:
        raise ValueError(f"{path} must be utf-8 text, got UTF-16 or binary data")
    if block[:3] != b"\xef\xbb\xbf":
        return block
    report.add("repaired", "byte_order_mark", name, 1, [(1, "byte order mark left out")])
    return block[3:]


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
