"""How a user's table is written: guesses from its first rows, for `kedro new-table`.

Guesses only: what is guessed is shown to the user and written into an environment, never used
behind the user's back.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.parameters import TableParameters
from clickprompt.readers.formats.line_blocks import unpacked_blocks
from clickprompt.readers.report import ReadReport
from clickprompt.readers.table.cells import NUMBER
from clickprompt.readers.table.delimited import DELIMITERS, DelimitedFile
from clickprompt.readers.table.parquet import ParquetFile
from clickprompt.readers.table.text_blocks import text_blocks

ENCODINGS = ("utf-8", "cp1252", "latin-1")
LINES_SNIFFED = 500
SNIFFED_BYTES = 1 << 20
ABSENT = ("NULL", "null", "\\N", "NaN", "nan", "None", "NA", "N/A", "n/a", "#N/A", "?", "-")
# the published layout of Criteo's display advertising files, which have no header
CRITEO = ("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))

_NUMBER = re.compile(NUMBER)
_DATA_LIKE = re.compile(r"(?:[0-9a-f]{8,}|[0-9]{1,4}[-/.:][0-9].*|true|false)", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """The first rows of a table.

    - ``table``: how it is written; None for Parquet;
    - ``columns``: name -> cells (rows,), text in a CSV file; names that occur twice are left out;
    - ``repeated``: names that occur twice;
    - ``rows``: number of rows; ``whole``: whether these are all;
    - ``dropped``: reason -> lines among them that are no rows.
    """

    table: TableParameters | None
    columns: dict[str, pa.Array]
    repeated: tuple[str, ...]
    rows: int
    whole: bool
    dropped: dict[str, int]


def read_sample(path: Path) -> Sample:
    """Guess how the file is written and read its first rows (16 MiB, or 262,144 of Parquet).

    Raises:
        ValueError: empty, damaged, or neither Parquet nor a CSV file of two or more columns.
    """
    with path.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    file: DelimitedFile | ParquetFile
    table = None
    if is_parquet:
        file = ParquetFile(path, path.name)
    else:
        table = sniff(path)
        file = DelimitedFile(path, path.name, table)
    counts = Counter(file.names)
    names = [name for name, count in counts.items() if count == 1]
    report = ReadReport()
    batches = file.batches(names, report)
    # a last line without line end is a batch of its own
    first = list(itertools.islice(batches, 2))
    if not first:
        raise ValueError(f"{path} must hold at least one row, got none that can be read")
    columns = {name: pa.concat_arrays([batch.columns[name] for batch in first]) for name in names}
    if table is not None:
        table = table.model_copy(update={"missing": _missing(columns)})
    return Sample(
        table=table,
        columns=columns,
        repeated=tuple(name for name, count in counts.items() if count > 1),
        rows=sum(len(batch.lines) for batch in first),
        whole=next(batches, None) is None,
        dropped=report.reasons("dropped"),
    )


def sniff(path: Path) -> TableParameters:
    """Encoding, delimiter, quote and header of a CSV file.

    Raises:
        ValueError: empty, damaged, binary, or no delimiter parts its lines.
    """
    encoding, text = _text(path)
    lines = text.splitlines(keepends=True)
    if len(lines) > LINES_SNIFFED:
        text = "".join(lines[:LINES_SNIFFED])
    delimiter = max(DELIMITERS, key=lambda sign: _fitness(text, sign))
    if _fitness(text, delimiter) <= 0:
        shown = lines[0].rstrip("\r\n")[:100] if lines else ""
        raise ValueError(
            f"{path} must have at least two columns between one of "
            f"{', '.join(DELIMITERS.values())}, got {shown!r}"
        )
    quote = '"' if _is_quoted(text, delimiter) else None
    rows = [row for row in _rows(text, delimiter, quote) if row]
    columns = None if is_header(rows[0], rows[1:]) else _names(rows[0])
    return TableParameters(delimiter=delimiter, quote=quote, encoding=encoding, columns=columns)


def is_header(first: list[str], others: list[list[str]]) -> bool:
    """Whether the first row names the columns.

    Names are filled (but for one: that of row numbers), and neither numbers nor other data; and
    fewer than half of the columns have their name among their values.
    """
    if sum(not cell.strip() for cell in first) > 1:
        return False
    if any(_NUMBER.match(cell.strip()) or _DATA_LIKE.fullmatch(cell.strip()) for cell in first):
        return False
    rows = [row for row in others if len(row) == len(first)]
    repeated = sum(cell in {row[at] for row in rows} for at, cell in enumerate(first))
    return 2 * repeated < len(first)


def _text(path: Path) -> tuple[str, str]:
    """Encoding and the first text of a file."""
    wide = next(unpacked_blocks(path, 2), b"") in (b"\xff\xfe", b"\xfe\xff")
    encodings = ("utf-16",) if wide else ENCODINGS
    first_error: ValueError | None = None
    for encoding in encodings:
        try:
            block = next(text_blocks(path, path.name, encoding, ReadReport(), SNIFFED_BYTES), b"")
        except ValueError as error:
            first_error = first_error or error
            continue
        if not block.strip():
            raise ValueError(f"{path} must hold rows, got an empty file")
        return encoding, block.decode("utf-8")
    assert first_error is not None
    raise first_error


def _rows(text: str, delimiter: str, quote: str | None) -> list[list[str]]:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quote,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # what was read so far tells enough
        rows.extend(reader)
    return rows


def _fitness(text: str, delimiter: str) -> float:
    """How well a delimiter parts the lines: many cells, and the same number in every line."""
    found = [len(row) for row in _rows(text, delimiter, '"') if row]
    if not found:
        return 0.0
    width, lines = Counter(found).most_common(1)[0]
    share = lines / len(found)
    if found[0] != width:
        share /= 2  # a header has no commas of a text's
    return 0.0 if width < 2 else share**4 * (width - 1) ** 0.5


def _is_quoted(text: str, delimiter: str) -> bool:
    """Whether quotes stand around cells; if as many rows are whole without this rule, they do."""
    if '"' not in text:
        return True  # quotes may come later: around cells is their usual meaning
    usual = max(Counter(len(row) for row in _rows(text, delimiter, '"')).items(), key=_second)
    plain = max(Counter(len(row) for row in _rows(text, delimiter, None)).items(), key=_second)
    return usual[1] >= plain[1] or usual[0] < plain[0]


def _second(pair: tuple[int, int]) -> int:
    return pair[1]


def _names(first: list[str]) -> tuple[str, ...]:
    """Names for columns without a header."""
    if len(first) == len(CRITEO) and first[0] in ("0", "1"):
        return CRITEO
    return tuple(f"column_{number}" for number in range(1, len(first) + 1))


def _missing(columns: dict[str, pa.Array]) -> tuple[str, ...]:
    """Texts of missing values: in columns that else are numbers, and the unmistakable ones."""
    found: set[str] = set()
    for array in columns.values():
        distinct = array.unique()
        absent = pc.is_in(distinct, pa.array([*ABSENT, ""]))
        some = set(distinct.filter(absent).to_pylist())
        rest = distinct.filter(pc.invert(absent))
        is_numeric = len(rest) > 0 and pc.all(pc.match_substring_regex(rest, NUMBER)).as_py()
        found |= some if is_numeric else some & {"NULL", "\\N", "#N/A"}
    return ("", *(text for text in ABSENT if text in found))
