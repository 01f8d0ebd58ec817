"""CSV files -> batches of text columns with the line of every row, in bounded memory.

The rules are those of RFC 4180, as Python's ``csv`` reads them: a cell that begins with a quote
goes to the closing quote, delimiters and line ends inside included; ``""`` is a quote; a quote
later in a bare cell is text. What breaks them (text after a closing quote, a quote that is never
closed) costs one line, not the rest of the file.

A block of whole lines is split by Arrow. Only lines with an open or misplaced quote are
looked at one by one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from clickprompt.parameters import TableParameters
from clickprompt.readers.report import EXAMPLE_LENGTH, EXAMPLES_PER_REASON, ReadReport
from clickprompt.readers.table.text_blocks import BLOCK_BYTES, count_lines, text_blocks

LONGEST_ROW_BYTES = (
    1 << 20
)  # of a row over several lines; a quote that is open longer is a lost one
DELIMITERS = {",": "','", "\t": "tab", ";": "';'", "|": "'|'", "^": "'^'", "\x01": "'\\x01'"}
_ROW, _CONTINUED, _BAD, _BLANK, _OPEN = range(5)  # what a line is


class Batch(NamedTuple):
    """Rows of a file.

    - ``columns``: name -> cells (rows,);
    - ``lines`` (rows,) int64: line, or row of a Parquet file, from 1;
    - ``texts[row]``: what the report shows of a row.
    """

    columns: dict[str, pa.Array]
    lines: np.ndarray
    texts: Any


class DelimitedFile:
    """One CSV file, plain or gzipped; ``names`` are its columns.

    Raises:
        ValueError: empty, damaged, binary, in another encoding, no readable first line, or the
            columns are given though the file names them itself.
    """

    def __init__(self, path: Path, name: str, table: TableParameters) -> None:
        self.path = path
        self.name = name
        self.table = table
        self._pattern = _row_pattern(table)
        first = self._first_row()
        if table.columns is not None and first == table.columns:
            raise ValueError(
                f"{path} must have no header where data.table.columns is given, got these names "
                "as its first line: leave data.table.columns out"
            )
        self.names = table.columns or first

    def column_hint(self) -> str:
        """What the delimiter may be, where the header was not split at all; else ""."""
        others = [s for s in DELIMITERS if len(self.names) == 1 and s in self.names[0]]
        return f"; data.table.delimiter seems to be {DELIMITERS[others[0]]}" if others else ""

    def batches(self, columns: Sequence[str], report: ReadReport) -> Iterator[Batch]:
        """Read some columns, block by block.

        Args:
            columns: some of ``names``.
            report: gets ``rows_read``, lines that are no row as dropped, inner blank lines as
                skipped, and the sha256 of the unpacked file.

        Raises:
            ValueError: truncated, in another encoding, without rows, or most lines of the first
                block are no rows.
        """
        splitter = _Splitter(self, columns, report)
        rest, line = b"", 1
        is_header = self.table.columns is None
        for block in text_blocks(self.path, self.name, self.table.encoding, report, BLOCK_BYTES):
            data = rest + block
            if is_header:
                end = self._first_row_end(data)
                line += count_lines(data[:end])
                data, is_header = data[end:], end == 0
            used, batch = splitter.split(data, line, is_last=not block.endswith((b"\n", b"\r")))
            line += count_lines(data[:used])
            rest = data[used:]
            if batch is not None:
                yield batch
        if rest:
            _, batch = splitter.split(rest, line, is_last=True)
            if batch is not None:
                yield batch
        if splitter.rows_read == 0:
            raise ValueError(f"{self.path} must hold at least one row, got none")

    def _first_row(self) -> tuple[str, ...]:
        """Cells of the first line that is not blank."""
        for block in text_blocks(
            self.path, self.name, self.table.encoding, ReadReport(), size=1 << 16
        ):
            end = self._first_row_end(block)
            if end:
                text = block[:end].decode("utf-8").strip("\r\n")
                quote = self.table.quote
                rows = csv.reader(
                    io.StringIO(text, newline=""),
                    delimiter=self.table.delimiter,
                    quotechar=quote,
                    quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
                )
                return tuple(next(rows))
        raise ValueError(f"{self.path} must hold rows, got an empty file")

    def _first_row_end(self, block: bytes) -> int:
        """Position after the first row and its line end; 0 where there are blank lines only."""
        start = len(block) - len(block.lstrip(b"\r\n"))
        if start == len(block):
            return 0
        row = self._pattern.match(block, start)
        if row is None:
            shown = block[start:].splitlines()[0].decode("utf-8")[:EXAMPLE_LENGTH]
            raise ValueError(f"{self.path} must start with a whole row, got {shown!r}")
        end = row.end()
        return end + (2 if block[end : end + 2] == b"\r\n" else 1)


class _Splitter:
    """Splits blocks of lines and reports what is no row."""

    def __init__(self, file: DelimitedFile, columns: Sequence[str], report: ReadReport) -> None:
        self.rows_read = 0
        self._file = file
        self._report = report
        self._pattern = file._pattern
        self._single = _single_line_pattern(file.table)
        # blank lines after which nothing else came so far: how many, and the first of them
        self._blank, self._first_blank = 0, list[int]()
        # unwanted columns may share a name, so Arrow gets names of its own
        places = {column: f"c{file.names.index(column)}" for column in columns}
        self._places = places
        quote = file.table.quote
        self._parse_options: dict[str, Any] = {
            "delimiter": file.table.delimiter,
            "quote_char": quote or False,
            "double_quote": True,
            "newlines_in_values": quote is not None,
        }
        self._convert_options = pyarrow.csv.ConvertOptions(
            include_columns=list(places.values()),
            column_types=dict.fromkeys(places.values(), pa.string()),
            strings_can_be_null=False,
            check_utf8=False,  # the whole block was checked
        )

    def split(self, block: bytes, line: int, *, is_last: bool) -> tuple[int, Batch | None]:
        """Split a block whose first line has the number ``line``.

        Returns:
            How many bytes were used, since a row may go on in the next block, and the rows.
        """
        starts, ends = _line_bounds(block)
        kinds = self._kinds(block, starts, ends, is_last)
        used = len(block)
        if (kinds == _OPEN).any():
            at = int(np.argmax(kinds == _OPEN))
            used = int(starts[at])
            starts, ends, kinds = starts[:at], ends[:at], kinds[:at]
        self._note_blank_lines(kinds, line)
        rows = np.flatnonzero(kinds == _ROW)
        columns, invalid = self._parse(_without(block[:used], starts, kinds == _BAD), len(rows))
        bad = {"misplaced_quote": np.flatnonzero(kinds == _BAD)}
        bad["wrong_number_of_cells"] = rows[invalid]
        kept = np.delete(rows, invalid)
        texts = _Texts(block, starts, ends)
        if is_last and used == len(block) and not block.endswith((b"\n", b"\r")):
            self._check_end(line + len(starts) - 1, len(starts) - 1, texts, bad)
        dropped = sum(len(lines) for lines in bad.values())
        if self.rows_read == 0 and 2 * dropped > len(rows) + len(bad["misplaced_quote"]):
            self._refuse(texts, bad, line)
        for reason, lines in bad.items():
            shown = [(line + int(at), texts[at]) for at in lines[:EXAMPLES_PER_REASON]]
            self._report.add("dropped", reason, self._file.name, len(lines), shown)
        self.rows_read += len(kept) + dropped
        self._report.rows_read += len(kept) + dropped
        if len(kept) == 0:
            return used, None
        return used, Batch(columns, line + kept, _Texts(block, starts[kept], ends[kept]))

    def _kinds(
        self, block: bytes, starts: np.ndarray, ends: np.ndarray, is_last: bool
    ) -> np.ndarray:
        """What each line is (lines,)."""
        kinds = np.where(starts == ends, _BLANK, _ROW)
        quote = self._file.table.quote
        if quote is None or quote.encode() not in block:
            return kinds
        bounds = pa.py_buffer(np.append(starts, len(block)).astype(np.int64))
        lines = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(starts), [None, bounds, pa.py_buffer(block)]
        )
        whole = pc.match_substring_regex(lines, self._single).to_numpy(zero_copy_only=False)
        after = 0  # the first line behind the last row that was looked at
        for at in np.flatnonzero(~whole & (kinds == _ROW)):
            if at < after:
                continue
            start = int(starts[at])
            limit = min(start + LONGEST_ROW_BYTES, len(block))
            row = self._pattern.match(block, start, limit)
            if row is None or row.end() == limit < len(block):
                if limit == len(block) and not is_last and limit < start + LONGEST_ROW_BYTES:
                    kinds[at] = _OPEN
                    break
                kinds[at] = _BAD
                continue
            after = int(np.searchsorted(starts, row.end(), side="right"))
            kinds[at + 1 : after] = _CONTINUED
        return kinds

    def _parse(self, text: bytes, rows: int) -> tuple[dict[str, pa.Array], list[int]]:
        """Cells of the rows, and which rows have another number of cells."""
        invalid: list[int] = []

        def note(row: pyarrow.csv.InvalidRow) -> str:
            invalid.append(row.number - 1)
            return "skip"

        if rows == 0:
            return {}, invalid
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=len(text) + 1,
                column_names=[f"c{place}" for place in range(len(self._file.names))],
            ),
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=note, **self._parse_options),
            convert_options=self._convert_options,
        )
        assert len(table) + len(invalid) == rows, (self._file.path, len(table), len(invalid), rows)
        return {
            name: table[place].combine_chunks() for name, place in self._places.items()
        }, invalid

    def _note_blank_lines(self, kinds: np.ndarray, line: int) -> None:
        """Report blank lines between rows; those after the last row are no gap."""
        filled, blank = np.flatnonzero(kinds != _BLANK), np.flatnonzero(kinds == _BLANK)
        inner = blank[blank < filled[-1]] if len(filled) else blank[:0]
        if len(filled):
            first = self._first_blank + (line + inner[:EXAMPLES_PER_REASON]).tolist()
            count = self._blank + len(inner)
            shown = [(number, "") for number in first]
            self._report.add("skipped", "blank_line", self._file.name, count, shown)
            self._blank, self._first_blank = 0, []
        after = blank[len(inner) :]
        self._blank += len(after)
        room = EXAMPLES_PER_REASON - len(self._first_blank)
        self._first_blank += (line + after[:room]).tolist()

    def _check_end(self, line: int, at: int, texts: _Texts, bad: dict[str, np.ndarray]) -> None:
        """A last line without line end is reported; where it is no row, the file was cut."""
        for reason, lines in bad.items():
            if at in lines:
                raise ValueError(
                    f"{self._file.path} must end with a whole line, got a truncated file: "
                    f"line {line} has a {reason.replace('_', ' ')}: {texts[at]!r}"
                )
        note = "no line end after the last line: the file may be truncated"
        self._report.add("repaired", "no_final_line_end", self._file.name, 1, [(line, note)])

    def _refuse(self, texts: _Texts, bad: dict[str, np.ndarray], line: int) -> None:
        at = min(int(lines[0]) for lines in bad.values() if len(lines))
        names = self._file.names
        shown = texts[at]
        signs = [s for s in DELIMITERS if s != self._file.table.delimiter]
        others = [s for s in signs if shown.count(s) == len(names) - 1]
        hint = f"; data.table.delimiter seems to be {DELIMITERS[others[0]]}" if others else ""
        raise ValueError(
            f"{self._file.path} must hold rows of {len(names)} cells ({', '.join(names[:40])}), "
            f"got other ones in most lines, such as line {line + at}: {shown!r}{hint}"
        )


class _Texts:
    """The lines of a block, to show some of them."""

    def __init__(self, block: bytes, starts: np.ndarray, ends: np.ndarray) -> None:
        self._block, self._starts, self._ends = block, starts, ends

    def __getitem__(self, row: int) -> str:
        start = int(self._starts[row])
        end = min(int(self._ends[row]), start + 4 * EXAMPLE_LENGTH)
        return self._block[start:end].decode("utf-8", "replace")[: EXAMPLE_LENGTH + 1]


def _line_bounds(block: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where each line starts and where it ends, without its line end; (lines,) int64."""
    data = np.frombuffer(block, np.uint8)
    feeds = np.flatnonzero(data == ord("\n"))
    stops = feeds + 1
    ends = feeds
    if b"\r" in block:
        ends = feeds - (data[np.maximum(feeds - 1, 0)] == ord("\r")) * (feeds > 0)
        returns = np.flatnonzero(data == ord("\r"))
        following = data[np.minimum(returns + 1, len(data) - 1)]
        alone = returns[(following != ord("\n")) | (returns == len(data) - 1)]
        order = np.argsort(np.concatenate([feeds, alone]), kind="stable")
        stops = np.concatenate([stops, alone + 1])[order]
        ends = np.concatenate([ends, alone])[order]
    if len(block) and (len(stops) == 0 or stops[-1] < len(block)):
        stops = np.append(stops, len(block))
        ends = np.append(ends, len(block))
    starts = np.append(0, stops[:-1]) if len(stops) else stops
    return starts, ends


def _without(block: bytes, starts: np.ndarray, bad: np.ndarray) -> bytes:
    """The block without its bad lines."""
    if not bad.any():
        return block
    bounds = np.append(starts, len(block))
    parts, position = [], 0
    for at in np.flatnonzero(bad):
        parts.append(block[position : bounds[at]])
        position = int(bounds[at + 1])
    return b"".join([*parts, block[position:]])


def _row_pattern(table: TableParameters) -> re.Pattern[bytes]:
    """A whole row, which may go over several lines, up to its line end."""
    sign = re.escape(table.delimiter)
    bare = rf"[^{sign}\r\n]*+"
    cell = bare
    if table.quote is not None:
        quote = re.escape(table.quote)
        cell = rf"(?:{quote}(?:[^{quote}]++|{quote}{quote})*+{quote}|(?!{quote}){bare})"
    return re.compile(rf"{cell}(?:{sign}{cell})*+(?=[\r\n]|\Z)".encode())


def _single_line_pattern(table: TableParameters) -> str:
    """A line that is a whole row by itself, as Arrow's regular expressions say it."""
    sign = re.escape(table.delimiter)
    quote = re.escape(table.quote or "")
    bare = rf"(?:[^{sign}{quote}\r\n][^{sign}\r\n]*)?"
    cell = rf"(?:{quote}(?:[^{quote}]|{quote}{quote})*{quote}|{bare})"
    return rf"\A{cell}(?:{sign}{cell})*[\r\n]*\z"
