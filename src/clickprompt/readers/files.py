"""Published text files -> tables of text columns, with the line number of every row.

The fast path splits whole files inside Arrow (a million ``::`` lines in half a second);
files with quotes go through Python's ``csv``. Both give the same ``TextTable``. Only what
makes a whole file unusable is an error here; single bad lines go into the report.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.report import EXAMPLES_PER_REASON, ReadReport

SEPARATORS = ("::", "\t", ",", ";", "|")
SEPARATOR_NAMES = {"\t": "tab", "::": "'::'", ",": "','", ";": "';'", "|": "'|'"}


@dataclass(frozen=True)
class TextTable:
    """Rows of a file as text columns of equal length.

    ``lines`` (rows,) int64 holds each row's line number in the file, from 1. ``kind`` says where
    the report counts rows that are taken out: ``dropped`` for ratings, ``skipped`` for others.
    """

    file: str
    kind: str
    separator: str
    columns: dict[str, pa.Array]
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, column: str) -> pa.Array:
        return self.columns[column]

    def nullable(self, column: str) -> pa.Array:
        """A column with null in place of empty text."""
        array = self.columns[column]
        return pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)

    def renamed(self, *names: str) -> TextTable:
        """The same rows under other column names."""
        columns = dict(zip(names, self.columns.values(), strict=True))
        return TextTable(self.file, self.kind, self.separator, columns, self.lines)

    def text(self, row: int) -> str:
        """The row's columns, joined again."""
        return self.separator.join(str(array[row].as_py()) for array in self.columns.values())

    def examples(self, rows: np.ndarray) -> list[tuple[int, str]]:
        """Line number and text of the first rows."""
        return [(int(self.lines[row]), self.text(int(row))) for row in rows[:EXAMPLES_PER_REASON]]

    def without(self, bad: np.ndarray, reason: str, report: ReadReport) -> TextTable:
        """Take out the rows where ``bad`` (rows,) bool is true and report each."""
        rows = np.flatnonzero(bad)
        if len(rows) == 0:
            return self
        report.add(self.kind, reason, self.file, len(rows), self.examples(rows))
        keep = np.flatnonzero(~bad)
        columns = {name: array.take(pa.array(keep)) for name, array in self.columns.items()}
        return TextTable(self.file, self.kind, self.separator, columns, self.lines[keep])

    def note(self, event: np.ndarray, reason: str, report: ReadReport) -> None:
        """Report rows that stay, where ``event`` (rows,) bool is true, as repaired."""
        rows = np.flatnonzero(event)
        report.add("repaired", reason, self.file, len(rows), self.examples(rows))


def read_table(
    files: Mapping[str, Path],
    name: str,
    columns: Sequence[str],
    *,
    separator: str,
    encoding: str,
    header: bool,
    kind: str,
    report: ReadReport,
) -> TextTable:
    """Read one published file.

    Args:
        files: file name -> path.
        name: file name; ``name.gz`` serves too.
        columns: the columns, in their published order. With a header they are found by name, may
            stand in any order, and further ones are left out.
        separator: between two columns.
        encoding: published encoding. A ``latin-1`` file that was saved again as UTF-8 is noticed
            and reported as repaired.
        header: whether the first line names the columns; such files may be quoted.
        kind: ``dropped`` or ``skipped``, where the report counts unusable lines.
        report: gets the file's sha256 and all events.

    Returns:
        The usable lines.

    Raises:
        ValueError: the file is not given, empty, truncated, in another encoding, has another
            header or separator, or less than half of its lines can be used.
    """
    path, raw = _read_bytes(files, name, report)
    text = _decode(raw, name, path, encoding, report)
    if header and '"' in text:
        table = _split_quoted(text, name, columns, separator, kind, report)
    else:
        table = _split_plain(text, name, columns, separator, header, kind, report)
    if len(table) == 0:
        raise ValueError(f"{path} must hold at least one row, got none")
    return table


def require_usable(table: TextTable, rows_read: int, report: ReadReport) -> None:
    """Stop when most rows of a file were unusable: then the file is of another format.

    Raises:
        ValueError: less than half of ``rows_read`` are left; gives the reasons and one example.
    """
    if 2 * len(table) >= rows_read:
        return
    known = report.reasons(table.kind)
    reasons = ", ".join(f"{reason} {count}" for reason, count in known.items())
    example = next(e for e in report.examples() if e["reason"] in known and e["file"] == table.file)
    raise ValueError(
        f"{table.file} must be in its published format, got {rows_read - len(table)} of "
        f"{rows_read} rows that cannot be used ({reasons}); line {example['line']}: "
        f"{example['text']!r}"
    )


def _read_bytes(files: Mapping[str, Path], name: str, report: ReadReport) -> tuple[Path, bytes]:
    given = files.get(name, files.get(f"{name}.gz"))
    if given is None:
        raise ValueError(f"files must hold {name}, got {', '.join(sorted(files)) or 'none'}")
    path = Path(given)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} must be a whole gzip file, got a damaged one: {error}"
            ) from None
    report.files[name] = hashlib.sha256(raw).hexdigest()
    if not raw.strip():
        raise ValueError(f"{path} must hold rows, got an empty file")
    return path, raw


def _decode(raw: bytes, name: str, path: Path, encoding: str, report: ReadReport) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw[:1000]:
        raise ValueError(f"{path} must be {encoding} text, got UTF-16 or binary data")
    if raw[:3] == b"\xef\xbb\xbf":
        raw, encoding = raw[3:], "utf-8"
        report.add("repaired", "byte_order_mark", name, 1, [(1, "byte order mark left out")])
    if encoding == "latin-1" and not raw.isascii():
        try:  # true latin-1 text is practically never valid UTF-8
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")
        line = next(i for i, part in enumerate(text.split("\n"), 1) if not part.isascii())
        found = text.split("\n")[line - 1]
        report.add("repaired", "utf8_instead_of_latin1", name, 1, [(line, found)])
        return text
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        part = raw.split(b"\n")[line - 1][:80].decode("latin-1")
        raise ValueError(
            f"{path} must be {encoding} text, got byte 0x{raw[error.start]:02x} in line {line}: "
            f"{part!r}; it was saved in another encoding"
        ) from None


def _split_plain(
    text: str,
    name: str,
    columns: Sequence[str],
    separator: str,
    header: bool,
    kind: str,
    report: ReadReport,
) -> TextTable:
    """Split inside Arrow; no Python object per line."""
    ends_whole = text.endswith("\n")
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    lines = pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten()
    del text
    first = 1
    order = list(range(len(columns)))
    width = len(columns)
    if header:
        names = lines[0].as_py().split(separator)
        order = _header_order(names, lines[0].as_py(), name, columns, separator)
        width, first, lines = len(names), 2, lines[1:]
    numbers = np.arange(first, first + len(lines), dtype=np.int64)
    lengths = _numpy(pc.utf8_length(lines))
    if (lengths == 0).any():
        blank = lengths == 0
        keep = np.flatnonzero(~blank)
        inner = numbers[blank & (numbers < (numbers[keep[-1]] if len(keep) else 0))]
        report.add("skipped", "blank_line", name, len(inner), [(int(n), "") for n in inner])
        lines, numbers = lines.take(pa.array(keep)), numbers[keep]
    rows_read = len(lines)
    parts = pc.split_pattern(lines, separator)
    wrong = _numpy(pc.list_value_length(parts)) != width
    if wrong.any():
        rows = np.flatnonzero(wrong)
        texts = [(int(numbers[row]), lines[int(row)].as_py()) for row in rows[:EXAMPLES_PER_REASON]]
        last = lines[rows_read - 1].as_py()
        if 2 * len(rows) > rows_read:
            raise ValueError(_format_message(name, columns, separator, *texts[0]))
        if not ends_whole and wrong[-1] and len(parts[rows_read - 1]) < width:
            raise ValueError(
                f"{name} must end with a whole line, got a truncated file: line {numbers[-1]} has "
                f"{len(parts[rows_read - 1])} of {width} columns: {last!r}"
            )
        report.add(kind, "wrong_number_of_columns", name, len(rows), texts)
        keep = np.flatnonzero(~wrong)
        parts, numbers = parts.take(pa.array(keep)), numbers[keep]
    if not ends_whole and rows_read:
        note = "no line end after the last line: the file may be truncated"
        report.add("repaired", "no_final_line_end", name, 1, [(int(numbers[-1]), note)])
    if kind == "dropped":
        report.rows_read += rows_read
    flat = parts.flatten()
    table = {
        column: flat.take(pa.array(np.arange(position, len(flat), width)))
        for column, position in zip(columns, order, strict=True)
    }
    return TextTable(name, kind, separator, table, numbers)


def _split_quoted(
    text: str,
    name: str,
    columns: Sequence[str],
    separator: str,
    kind: str,
    report: ReadReport,
) -> TextTable:
    """Split with Python's csv: separators, quotes and line ends may stand inside quotes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    wrong: list[tuple[int, str]] = []
    order: list[int] | None = None
    width, start = 0, 1
    try:
        for row in reader:
            number, start = start, reader.line_num + 1
            if order is None:
                order = _header_order(row, separator.join(row), name, columns, separator)
                width = len(row)
            elif not row:
                report.add("skipped", "blank_line", name, 1, [(number, "")])
            elif len(row) != width:
                wrong.append((number, separator.join(row)))
            else:
                rows.append([row[position] for position in order])
                numbers.append(number)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise ValueError(
                f"{name} must end with a whole line, got a truncated file: the quote opened in "
                f"line {start} is never closed"
            ) from None
        raise ValueError(f"{name} must be well-formed CSV, got in line {start}: {error}") from None
    if len(wrong) > len(rows):
        raise ValueError(_format_message(name, columns, separator, *wrong[0]))
    if not text.endswith("\n"):
        last, last_text = wrong[-1] if wrong else (0, "")
        if last > (numbers[-1] if numbers else 0):
            raise ValueError(
                f"{name} must end with a whole line, got a truncated file: line {last} has "
                f"another number of columns than {width}: {last_text!r}"
            )
        note = "no line end after the last line: the file may be truncated"
        report.add("repaired", "no_final_line_end", name, 1, [(numbers[-1], note)])
    report.add(kind, "wrong_number_of_columns", name, len(wrong), wrong)
    if kind == "dropped":
        report.rows_read += len(rows) + len(wrong)
    table = {
        column: pa.array([row[i] for row in rows], pa.large_string())
        for i, column in enumerate(columns)
    }
    return TextTable(name, kind, separator, table, np.array(numbers, dtype=np.int64))


def _header_order(
    names: Sequence[str], line: str, file: str, columns: Sequence[str], separator: str
) -> list[int]:
    missing = [column for column in columns if column not in names]
    if not missing:
        return [list(names).index(column) for column in columns]
    expected = separator.join(columns)
    others = [s for s in SEPARATORS if s != separator and s in line]
    hint = f"; its separator seems to be {SEPARATOR_NAMES[others[0]]}" if others else ""
    if len(missing) < len(columns):
        hint = f"; missing column{'s' if len(missing) > 1 else ''}: {', '.join(missing)}"
    raise ValueError(f"{file} must start with the header {expected!r}, got {line[:200]!r}{hint}")


def _format_message(
    name: str, columns: Sequence[str], separator: str, number: int, line: str
) -> str:
    found = len(line.split(separator))
    others = [s for s in SEPARATORS if s != separator and len(line.split(s)) >= len(columns)]
    hint = f"; its separator seems to be {SEPARATOR_NAMES[others[0]]}" if others else ""
    return (
        f"{name} must have {len(columns)} columns separated by {SEPARATOR_NAMES[separator]} "
        f"({', '.join(columns)}), got {found} in line {number}: {line[:200]!r}{hint}"
    )


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)
