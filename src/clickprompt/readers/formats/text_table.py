"""Published text files -> tables of text columns, with the line number of every row.

Whole files are split inside Arrow (a million ``::`` lines in half a second); of files with
quotes, only the lines that need it are parsed in Python. Only what makes a whole file unusable is
an error here; single bad lines go into the report.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.line_blocks import LineBlocks
from clickprompt.readers.report import EXAMPLES_PER_REASON, ReadReport

SEPARATORS = ("::", "\t", ",", ";", "|")
LINES_PER_ROW = 20  # at most, of a row with line ends inside quotes
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

    def replaced(self, **columns: pa.Array) -> TextTable:
        """The same rows with other contents of the given columns."""
        assert columns.keys() <= self.columns.keys()
        return TextTable(self.file, self.kind, self.separator, self.columns | columns, self.lines)

    def text(self, row: int) -> str:
        """The row's columns, joined again."""
        return self.separator.join(str(array[row].as_py()) for array in self.columns.values())

    def examples(self, rows: np.ndarray) -> Iterator[tuple[int, str]]:
        """Line number and text of the first rows, made when they are asked for."""
        for row in rows[:EXAMPLES_PER_REASON]:
            yield int(self.lines[row]), self.text(int(row))

    def part(self, start: int, stop: int) -> TextTable:
        """The rows from ``start`` to before ``stop``."""
        columns = {name: array[start:stop] for name, array in self.columns.items()}
        return TextTable(self.file, self.kind, self.separator, columns, self.lines[start:stop])

    @staticmethod
    def stacked(tables: Sequence[TextTable]) -> TextTable:
        """The rows of tables of one file, one after the other."""
        first = tables[0]
        columns = {n: pa.concat_arrays([t.columns[n] for t in tables]) for n in first.columns}
        lines = np.concatenate([table.lines for table in tables])
        return TextTable(first.file, first.kind, first.separator, columns, lines)

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
    backslash: bool = False,
    other_separators: Sequence[str] = (),
) -> TextTable:
    """Read one published file.

    Args:
        files: file name -> path.
        name: file name; ``name.gz`` serves too.
        columns: the columns, in their published order. With a header they are found by name, may
            stand in any order, and further ones are left out.
        separator: between two columns.
        encoding: published encoding. A ``latin-1`` or ``cp1252`` file that was saved again as
            UTF-8 is noticed and reported as repaired.
        header: whether the first line names the columns; such files may be quoted.
        kind: ``dropped`` or ``skipped``, where the report counts unusable lines.
        report: gets the file's sha256 and all events.
        backslash: a quote inside a quoted field is published as ``\\"`` rather than ``""``.
        other_separators: of copies that were saved again, with ``""`` for a quote; recognised by
            the header and reported as repaired.

    Returns:
        The usable lines.

    Raises:
        ValueError: the file is not given, empty, truncated, in another encoding, has another
            header or separator, or less than half of its lines can be used.
    """
    path, raw = _read_bytes(files, name, report)
    text = _decode(raw, name, path, encoding, report)
    del raw
    if header:
        first = text[: text.find("\n")] if "\n" in text else text
        for other in other_separators:
            names, _ = _fields(first.rstrip("\r"), other, backslash=False)
            if names is not None and set(columns) <= set(names):
                separator, backslash = other, False
                report.add("repaired", "other_separator", name, 1, [(1, first.rstrip("\r"))])
    table = _split(text, name, columns, separator, header, backslash, kind, report)
    if len(table) == 0:
        raise ValueError(f"{path} must hold at least one row, got none")
    return table


def stream_table(
    files: Mapping[str, Path],
    name: str,
    columns: Sequence[str],
    *,
    separator: str,
    kind: str,
    report: ReadReport,
) -> Iterator[TextTable]:
    """Read one published file with a header, a block of lines at a time; a row is one line.

    Args:
        files: file name -> path.
        name: file name; ``name.gz`` serves too.
        columns: found by their names in the header; further ones are left out.
        separator: between two columns.
        kind: ``dropped`` or ``skipped``, where the report counts unusable lines.
        report: gets all events and, after the last block, the file's sha256. Bytes that are no
            UTF-8 become U+FFFD (``not_utf8``).

    Yields:
        The usable lines of a block.

    Raises:
        ValueError: the file is not given, empty, truncated, or has another header or separator.
    """
    source = LineBlocks(files, name, kind=kind, report=report)
    order: list[int] | None = None
    width = 0
    for block in source:
        while order is None and block:
            first, end, block = block.partition(b"\n")
            if not first.strip():
                list(source.lines(first + end))  # a blank line before the header
                continue
            line = first.decode("utf-8", "replace").strip()
            names = _fields(line, separator, backslash=False)[0] or line.split(separator)
            order, width = _header_order(names, line, name, columns, separator), len(names)
            source.number += 1
        lines, numbers = _block_lines(block, source)
        if order is None or len(lines) == 0:
            continue
        if b'"' in block:
            found = _split_quoted(
                lines, numbers, width, order, separator, backslash=False, over_lines=False
            )
        else:
            found = _split_plain(lines, numbers, width, order, separator)
        for bad in found.bad:
            if bad.cut and bad.number == numbers[-1] and not block.endswith(b"\n"):
                raise ValueError(
                    f"{source.path} must end with a whole line, got a truncated file: line "
                    f"{bad.number} has {bad.cut}: {bad.text[-200:]!r}"
                )
            report.add(kind, bad.reason, name, 1, [(bad.number, bad.text)])
        if len(found.numbers):
            named = dict(zip(columns, found.columns, strict=True))
            yield TextTable(name, kind, separator, named, found.numbers)


def _block_lines(block: bytes, source: LineBlocks) -> tuple[pa.Array, np.ndarray]:
    """The block's lines that are not blank, without line ends, and their numbers."""
    try:
        text = block.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        text = "\n\n"
    if text and not text.startswith("\n") and "\n\n" not in text:
        text = text.removesuffix("\n").removesuffix("\r")
        lines = pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten()
        if not pc.any(pc.utf8_is_space(lines)).as_py():
            first = source.count(len(lines))
            return lines, np.arange(first, first + len(lines), dtype=np.int64)
    numbers, texts = [], []
    for number, raw in source.lines(block):
        numbers.append(number)
        texts.append(raw.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r"))
        if "\ufffd" in texts[-1]:
            source.report.add("repaired", "not_utf8", source.name, 1, [(number, texts[-1])])
    return pa.array(texts, pa.large_string()), np.array(numbers, dtype=np.int64)


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
    if encoding in ("latin-1", "cp1252") and not raw.isascii():
        try:  # true latin-1 text is practically never valid UTF-8
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return _decode_single_byte(raw, encoding)
        line = next(i for i, part in enumerate(text.split("\n"), 1) if not part.isascii())
        found = text.split("\n")[line - 1]
        reason = f"utf8_instead_of_{encoding.replace('-', '')}"
        report.add("repaired", reason, name, 1, [(line, found)])
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


def _decode_single_byte(raw: bytes, encoding: str) -> str:
    """Decode latin-1 or cp1252; cp1252's five undefined bytes stay control characters."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        table = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256)}
        return raw.decode("latin-1").translate(table)


class _BadLine(NamedTuple):
    """A line that is no row. ``cut``: what makes it look cut off, or ""."""

    number: int
    text: str
    reason: str
    cut: str


class _Rows(NamedTuple):
    """The wanted columns, line numbers of the rows, and what could not be split.

    ``otherwise`` (rows,) bool: the row's quotes are not escaped as the file's are.
    """

    columns: list[pa.Array]
    numbers: np.ndarray
    bad: list[_BadLine]
    otherwise: np.ndarray


def _split(
    text: str,
    name: str,
    columns: Sequence[str],
    separator: str,
    header: bool,
    backslash: bool,
    kind: str,
    report: ReadReport,
) -> TextTable:
    """Text of a file -> table; every line that is no row is reported."""
    quoted = header and '"' in text
    ends_whole = text.endswith("\n")
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    lines = pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten()
    del text
    first = 1
    order = list(range(len(columns)))
    width = len(columns)
    if header:
        line = lines[0].as_py()
        names = line.split(separator)
        if quoted:
            names = _fields(line, separator, backslash)[0] or names
        order = _header_order(names, separator.join(names), name, columns, separator)
        width, first, lines = len(names), 2, lines[1:]
    numbers = np.arange(first, first + len(lines), dtype=np.int64)
    blank = to_numpy(pc.utf8_length(lines)) == 0
    if blank.any():
        keep = np.flatnonzero(~blank)
        inner = numbers[blank & (numbers < (numbers[keep[-1]] if len(keep) else 0))]
        report.add("skipped", "blank_line", name, len(inner), [(int(n), "") for n in inner])
        lines, numbers = lines.take(pa.array(keep)), numbers[keep]
    if quoted:
        rows = _split_quoted(lines, numbers, width, order, separator, backslash)
    else:
        rows = _split_plain(lines, numbers, width, order, separator)
    rows_read = len(rows.numbers) + len(rows.bad)
    if 2 * len(rows.bad) > rows_read:
        bad = rows.bad[0]
        raise ValueError(_format_message(name, columns, separator, bad.number, bad.text))
    if not ends_whole and rows_read:
        last = rows.bad[-1] if rows.bad else None
        if last is not None and last.cut and last.number == numbers[-1]:
            raise ValueError(
                f"{name} must end with a whole line, got a truncated file: line {last.number} has "
                f"{last.cut}: {last.text[-200:]!r}"
            )
        note = "no line end after the last line: the file may be truncated"
        report.add("repaired", "no_final_line_end", name, 1, [(int(numbers[-1]), note)])
    for reason in sorted({bad.reason for bad in rows.bad}):
        found = [(bad.number, bad.text) for bad in rows.bad if bad.reason == reason]
        report.add(kind, reason, name, len(found), found)
    if kind == "dropped":
        report.rows_read += rows_read
    named = dict(zip(columns, rows.columns, strict=True))
    table = TextTable(name, kind, separator, named, rows.numbers)
    table.note(rows.otherwise, "quotes_escaped_otherwise", report)
    return table


def _split_plain(
    lines: pa.Array, numbers: np.ndarray, width: int, order: list[int], separator: str
) -> _Rows:
    """Split lines whose quotes mean nothing, inside Arrow."""
    columns, whole = _pieces(lines, width, order, separator, quotes=True)
    bad = []
    for row in np.flatnonzero(~whole):
        text = lines[int(row)].as_py()
        found = text.count(separator) + 1
        cut = f"{found} of {width} columns" if found < width else ""
        bad.append(_BadLine(int(numbers[row]), text, "wrong_number_of_columns", cut))
    return _Rows(columns, numbers[whole], bad, np.zeros(int(whole.sum()), dtype=bool))


def _split_quoted(
    lines: pa.Array,
    numbers: np.ndarray,
    width: int,
    order: list[int],
    separator: str,
    backslash: bool,
    *,
    over_lines: bool = True,
) -> _Rows:
    """Split lines that may have quotes.

    Lines without any quote, and lines whose every field is quoted and has no quote inside, are
    split inside Arrow; the rest is parsed one by one. A line with an open quote is joined
    to the lines after it only as long as these are no rows by themselves: a lost quote then costs
    one row, not the rest of the file. Without ``over_lines`` it is never joined.
    """
    escaped = to_numpy(pc.match_substring(lines, "\\"))
    bare = np.flatnonzero(~escaped & ~to_numpy(pc.match_substring(lines, '"')))
    enclosed = np.flatnonzero(
        ~escaped & to_numpy(pc.starts_with(lines, '"')) & to_numpy(pc.ends_with(lines, '"'))
    )
    bare_lines = lines.take(pa.array(bare))
    bare_columns, whole = _pieces(bare_lines, width, order, separator, quotes=False)
    bare = bare[whole]
    inner = pc.utf8_slice_codeunits(lines.take(pa.array(enclosed)), 1, -1)
    columns, whole = _pieces(inner, width, order, f'"{separator}"', quotes=False)
    enclosed = enclosed[whole]

    odd = np.ones(len(lines), dtype=bool)
    odd[bare] = odd[enclosed] = False
    rest = np.flatnonzero(odd)
    parsed = _parse_lines(
        lines.take(pa.array(rest)), numbers[rest], width, order, separator, backslash, over_lines
    )
    all_numbers = np.concatenate([numbers[bare], numbers[enclosed], parsed.numbers])
    otherwise = np.zeros(len(all_numbers), dtype=bool)
    otherwise[len(bare) + len(enclosed) :] = parsed.otherwise
    at = np.argsort(all_numbers, kind="stable")
    if len(enclosed) < len(at):
        columns = [
            pa.concat_arrays(parts).take(pa.array(at))
            for parts in zip(bare_columns, columns, parsed.columns, strict=True)
        ]
    return _Rows(columns, all_numbers[at], parsed.bad, otherwise[at])


def _pieces(
    lines: pa.Array, width: int, order: list[int], pattern: str, *, quotes: bool
) -> tuple[list[pa.Array], np.ndarray]:
    """Split lines that are rows.

    Returns:
        The columns in ``order``, and which lines (lines,) bool have ``width`` pieces, without a
        quote inside unless ``quotes``.
    """
    parts = pc.split_pattern(lines, pattern)
    whole = to_numpy(pc.list_value_length(parts)) == width
    if not whole.all():
        parts = parts.filter(pa.array(whole))
    flat = parts.flatten()
    if not quotes:
        quoted = to_numpy(pc.match_substring(flat, '"')).reshape(-1, width).any(axis=1)
        if quoted.any():
            whole[np.flatnonzero(whole)[quoted]] = False
            flat = flat.filter(pa.array(np.repeat(~quoted, width)))
    return [flat.take(pa.array(np.arange(i, len(flat), width))) for i in order], whole


def _parse_lines(
    lines: pa.Array,
    numbers: np.ndarray,
    width: int,
    order: list[int],
    separator: str,
    backslash: bool,
    over_lines: bool,
) -> _Rows:
    """Parse the given lines one by one; with ``over_lines`` rows may go over several."""
    texts, at = lines.to_pylist(), numbers.tolist()
    rows: list[list[str]] = []
    starts: list[int] = []
    otherwise: list[bool] = []
    bad: list[_BadLine] = []
    position = 0
    while position < len(texts):
        number, text, used = at[position], texts[position], 1
        fields, is_open = _fields(text, separator, backslash)
        if is_open and over_lines:
            fields, used = _joined(texts, at, position, width, separator, backslash)
        escaped_otherwise = fields is None or len(fields) != width
        if escaped_otherwise:
            others, _ = _fields(text, separator, not backslash)
            if others is None or len(others) != width:
                reason = "misplaced_quote" if fields is None else "wrong_number_of_columns"
                cut = "an open quote" if is_open else ""
                if fields is not None and len(fields) < width:
                    cut = f"{len(fields)} of {width} columns"
                bad.append(_BadLine(number, text, reason, cut))
                position += 1
                continue
            fields, used = others, 1
        assert fields is not None
        rows.append(fields)
        starts.append(number)
        otherwise.append(escaped_otherwise)
        position += used
    columns = [pa.array([row[i] for row in rows], pa.large_string()) for i in order]
    return _Rows(columns, np.array(starts, dtype=np.int64), bad, np.array(otherwise, dtype=bool))


def _joined(
    texts: list[str], at: list[int], position: int, width: int, separator: str, backslash: bool
) -> tuple[list[str] | None, int]:
    """Fields of a row that goes on in the lines after it, and how many lines it has."""
    text = texts[position]
    for used in range(1, LINES_PER_ROW):
        after = position + used
        if after == len(texts) or at[after] != at[position] + used:
            break
        alone, _ = _fields(texts[after], separator, backslash)
        if alone is not None and len(alone) == width:
            break
        text = f"{text}\n{texts[after]}"
        fields, is_open = _fields(text, separator, backslash)
        if not is_open:
            whole = fields is not None and len(fields) == width
            return (fields, used + 1) if whole else (None, 1)
    return None, 1


# a quoted field with "" or \" for a quote, then the field without quotes around it
_QUOTED = {
    False: r'"((?:[^"]++|"")*+)"',
    True: r'"((?:[^"\\]++|\\.|"")*+)"',
}
_ESCAPED = re.compile(r'\\(.)|"(")', re.DOTALL)


@functools.cache
def _field_pattern(separator: str, backslash: bool) -> re.Pattern[str]:
    between = re.escape(separator)
    plain = rf'((?!")(?:(?!{between}).)*+)'
    return re.compile(rf"(?:{_QUOTED[backslash]}|{plain})(?:({between})|\Z)", re.DOTALL)


def _fields(text: str, separator: str, backslash: bool) -> tuple[list[str] | None, bool]:
    """Fields of one row; None where quotes are misplaced, and whether one is left open."""
    pattern = _field_pattern(separator, backslash)
    fields: list[str] = []
    position = 0
    while found := pattern.match(text, position):
        quoted, plain, between = found.groups()
        if quoted is None:
            fields.append(plain)
        elif backslash:
            fields.append(
                _ESCAPED.sub(r"\1\2", quoted) if "\\" in quoted or '"' in quoted else quoted
            )
        else:
            fields.append(quoted.replace('""', '"'))
        if between is None:
            return fields, False
        position = found.end()
    body = _QUOTED[backslash].removesuffix('"') + (r"\\?\Z" if backslash else r"\Z")
    return None, re.compile(body, re.DOTALL).match(text, position) is not None


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


def to_numpy(array: pa.Array) -> np.ndarray:
    """An Arrow array (rows,) as numpy."""
    return array.to_numpy(zero_copy_only=False)
