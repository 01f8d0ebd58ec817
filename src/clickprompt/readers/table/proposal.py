"""What the columns of a user's table may be: guesses with their reasons, for `kedro new-table`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.parameters import TableParameters
from clickprompt.readers.table.cells import NUMBER, number_cells, text_cells, time_cells, time_part
from clickprompt.readers.table.sniffing import Sample, read_sample

Role = Literal["label", "user", "item", "time", "split", "field", "left out"]

LABELS = (
    "click", "clicked", "is_click", "is_clicked", "label", "target", "conversion", "converted",
    "purchase", "purchased", "is_buy", "bought", "liked", "like", "outcome", "y", "rating",
    "ratings", "stars", "overall", "score", "book_rating", "review_score",
)  # fmt: skip
PEOPLE = (
    "user", "uid", "visitor", "customer", "member", "reviewer", "viewer", "account", "client",
    "subscriber", "person", "patient", "student", "household", "device",
)  # fmt: skip
THINGS = (
    "item", "iid", "product", "ad", "advert", "creative", "campaign", "movie", "book", "article",
    "news", "song", "track", "video", "document", "listing", "business", "course", "isbn", "asin",
    "sku", "story", "recipe", "game", "banner",
)  # fmt: skip
TIME = re.compile(r"(?:^|_)(?:time|timestamp|ts|date|datetime|hour|day|created|unix|dt|at)(?:_|$)")
IDS = re.compile(r"(?:^|_)(?:id|ids|key|uuid|guid|hash|code|zip|zipcode|postcode|type|class)$")
ROW_IDS = re.compile(r"(?:^|_)(?:id|key|uuid|guid|hash)$")
HEX = r"^(?:0x)?[0-9a-fA-F]{6,}$"
TIME_FORMATS = (
    "%y%m%d%H", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M%S", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S",
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%a %b %d %H:%M:%S %z %Y",
)  # fmt: skip
PLAUSIBLE_TIMES = (315_532_800, 4_102_444_800)  # 1980 to 2100, in seconds
SPLIT_NAMES = (("train", "training"), ("valid", "val", "validation", "dev"), ("test", "testing"))
POSITIVE = ("true", "yes", "y", "t", "click", "clicked", "positive", "pos", "won", "good", "buy")
SEPARATORS = ("|", ";", "^")
FEW_VALUES = 20  # whole numbers with at most so many values are taken for names
MANY_VALUES = 10_000  # from here on, values that occur once are taken together
LONG_TEXT = 200  # characters, on average
EXAMPLES = 3


@dataclass(frozen=True)
class ColumnGuess:
    """One column, what it is taken for, and why.

    - ``distinct``: number of values in the sample, the missing one apart;
    - ``missing``: share of missing cells;
    - ``settings``: further parameters of a field (``kind``, ``separator``, ``min_count``, ...);
    - ``warning``: what the user should look at, or "".
    """

    name: str
    distinct: int
    missing: float
    examples: tuple[str, ...]
    role: Role
    why: str
    settings: dict[str, Any] = field(default_factory=dict)
    warning: str = ""

    @property
    def kind(self) -> str:
        """Kind of the field, "" for other roles."""
        return self.settings.get("kind", "categorical") if self.role == "field" else ""


@dataclass(frozen=True)
class Proposal:
    """An environment for a table.

    - ``files``: the files, of one layout;
    - ``sample``: the first rows, of which everything is guessed;
    - ``table``: how the files are written, the time and the words of the label included;
    - ``columns``: in the order of the file;
    - ``label``: ``column``, ``positive_from``, ``negative_to``;
    - ``positive``: share of positive rows among those with a label, in the sample;
    - ``split_names``: what the split column calls train, valid and test, or None;
    - ``time_parts``: what of the time may be a field: ``hour``, ``weekday``.
    """

    files: tuple[Path, ...]
    sample: Sample
    table: TableParameters
    columns: tuple[ColumnGuess, ...]
    label: dict[str, Any]
    positive: float
    split_names: tuple[str, str, str] | None
    time_parts: tuple[str, ...]

    def column(self, role: Role) -> str | None:
        """Name of the column of a role that one column has."""
        return next((guess.name for guess in self.columns if guess.role == role), None)

    @property
    def fields(self) -> list[ColumnGuess]:
        """The columns that the models read; ids of users and items are among them."""
        return [guess for guess in self.columns if guess.role in ("user", "item", "field")]


def propose(files: Sequence[Path], label: str | None = None) -> Proposal:
    """Guess an environment from the first rows of the first file.

    Args:
        files: of one layout.
        label: column of the label; None: it is guessed.

    Raises:
        ValueError: a file cannot be read, the files have different columns, no column looks like a
            label, or nothing is left for the models to read.
    """
    sample = read_sample(files[0])
    for other in files[1:]:
        found = read_sample(other)
        if list(found.columns) != list(sample.columns):
            odd = sorted(set(found.columns) ^ set(sample.columns)) or list(found.columns)
            raise ValueError(
                f"files must have the same columns, got other ones in {other} than in "
                f"{files[0]}: {', '.join(odd[:10])}"
            )
    table = sample.table or TableParameters()
    columns = [_Column(name, array, table) for name, array in sample.columns.items()]
    label_column = _find_label(columns, label, files[0])
    rule, words, positive = _label_rule(label_column)
    rest = [column for column in columns if column is not label_column]
    time, found_time = _find_time(rest, table)
    parts = found_time.pop("parts", ())
    constant = found_time.pop("constant", ())
    if sample.whole:  # else another day may follow
        parts = tuple(part for part in parts if part not in constant)
    split, split_names = _find_split(rest)
    roles: dict[str, tuple[Role, str]] = {label_column.name: ("label", rule.pop("why"))}
    for role, column, why in (
        ("time", time, found_time.pop("why", "")),
        ("split", split, "names train, valid and test rows"),
    ):
        if column is not None:
            roles[column.name] = (role, why)  # type: ignore[assignment]
    free = [c for c in rest if c.name not in roles and c.distinct > 1]
    for role, words_of_role in (("user", PEOPLE), ("item", THINGS)):
        named = _named(free, words_of_role, roles)
        if named is not None:
            roles[named.name] = (role, "its name")  # type: ignore[assignment]
    guesses = tuple(_guess(column, roles.get(column.name)) for column in columns)
    table = table.model_copy(update=found_time | {"label_values": words})
    proposal = Proposal(
        files=tuple(files),
        sample=sample,
        table=table,
        columns=guesses,
        label=rule,
        positive=positive,
        split_names=split_names,
        time_parts=parts,
    )
    if not proposal.fields and not parts:
        raise ValueError(f"{files[0]} must have a column beside the label that varies, got none")
    return proposal


class _Column:
    """Facts on one column of the sample."""

    def __init__(self, name: str, array: pa.Array, table: TableParameters) -> None:
        self.name = name
        self.table = table
        self.key = _key(name)
        self.type = array.type
        self.is_readable = True
        try:
            self.text = text_cells(array, table.missing)
        except ValueError:  # structures
            self.is_readable, self.text = False, pa.nulls(len(array), pa.string())
        self.rows = len(array) - self.text.null_count
        self.missing = self.text.null_count / max(len(array), 1)
        counts = pa.Table.from_struct_array(pc.value_counts(self.text.drop_null()))
        counts = counts.sort_by([("counts", "descending"), ("values", "ascending")])
        self.values: list[str] = counts["values"].to_pylist()
        self.counts = dict(zip(self.values, counts["counts"].to_pylist(), strict=True))
        distinct = pc.utf8_trim_whitespace(counts["values"])
        self.distinct = len(self.values)

        def match(pattern: str) -> pa.ChunkedArray:
            return pc.match_substring_regex(distinct, pattern)

        self.is_numeric = self.distinct > 0 and pc.all(match(NUMBER)).as_py()
        self.is_whole = self.is_numeric and pc.all(match(r"^[+-]?[0-9]+(?:\.0+)?$")).as_py()
        self.has_leading_zeros = self.distinct > 0 and pc.any(match("^0[0-9]")).as_py()

    def numbers(self) -> np.ndarray:
        """Values (distinct,) as float64, of a numeric column."""
        converted = number_cells(pa.array(self.values, pa.string()), (), self.table.decimal)
        return converted.values.to_numpy(zero_copy_only=False)


def _find_label(columns: list[_Column], given: str | None, path: Path) -> _Column:
    by_name = {column.name: column for column in columns}
    if given is not None:
        if given not in by_name:
            raise ValueError(f"the label must be a column of {path}, got {given!r}")
        if not _may_be_label(by_name[given]):
            raise ValueError(
                f"the label must be numbers or two words, got {given!r} with "
                f"{by_name[given].distinct} values such as {by_name[given].values[:3]}"
            )
        return by_name[given]
    for key in LABELS:
        for column in columns:
            if column.key == key and _may_be_label(column) and column.distinct <= 101:
                return column
    binary = [c for c in columns if c.distinct == 2 and (c.is_numeric or _words(c) is not None)]
    zero_one = [c for c in binary if set(c.values) == {"0", "1"}]
    if not (zero_one or binary):
        names = ", ".join(column.name for column in columns)
        raise ValueError(
            f"{path} must have a column that looks like a label, got none ({names}): name it by "
            "--label"
        )
    return (zero_one or binary)[0]


def _may_be_label(column: _Column) -> bool:
    return (column.is_numeric and column.distinct >= 2) or _words(column) is not None


def _words(column: _Column) -> dict[str, float] | None:
    """Numbers for a label of two words."""
    if column.is_numeric or column.distinct != 2:
        return None
    known = [value for value in column.values if value.strip().lower() in POSITIVE]
    # where neither or both are known, the rarer one: clicks are
    positive = known[0] if len(known) == 1 else column.values[1]
    return {value: float(value == positive) for value in column.values}


def _label_rule(column: _Column) -> tuple[dict[str, Any], dict[str, float], float]:
    """Label rule with its reason, words of the label, and the share of positives."""
    words = _words(column)
    if words is not None:
        positive = next(value for value in words if words[value] == 1)
        share = column.counts[positive] / column.rows
        true_false = {value.strip().lower() for value in words} == {"true", "false"}
        rule = {"column": column.name, "positive_from": 1, "negative_to": 0}
        rule["why"] = f"two words, {positive!r} is taken for positive"
        return rule, {} if true_false else words, share
    numbers = np.unique(column.numbers())
    low, high = numbers[0], numbers[-1]
    if len(numbers) == 2:
        positive_from, negative_to = high, low
        why = f"two values, {_plain(high)} is positive"
    else:
        positive_from = numbers[np.searchsorted(numbers, low + 0.75 * (high - low))]
        negative_to = numbers[numbers < positive_from][-1]
        why = f"a scale from {_plain(low)} to {_plain(high)}"
    rows = sum(
        count
        for value, count in column.counts.items()
        if float(value.replace(column.table.decimal, ".")) >= positive_from
    )
    rule = {
        "column": column.name,
        "positive_from": _plain(positive_from),
        "negative_to": _plain(negative_to),
        "why": why,
    }
    return rule, {}, rows / column.rows


def _find_time(
    columns: list[_Column], table: TableParameters
) -> tuple[_Column | None, dict[str, Any]]:
    """The time, and how it is written (``time_format``, ``time_unit``, ``why``)."""
    named = [column for column in columns if TIME.search(column.key)]
    others = [column for column in columns if column not in named]
    for column in [*named, *others]:
        if column.distinct < 2:
            continue
        found = _time_form(column, table, is_named=column in named)
        if found is not None:
            return column, found
    return None, {}


def _time_form(column: _Column, table: TableParameters, *, is_named: bool) -> dict[str, Any] | None:
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return {"why": f"times ({kind})"} | _parts(column.text, None, "s")
    if pa.types.is_boolean(kind) or pa.types.is_nested(kind):
        return None
    values = pa.array(column.values[:10_000], pa.string())
    forms: list[tuple[str | None, str]] = []
    if column.is_whole:
        if not is_named:
            return None  # any number may be one by chance
        forms = [(None, unit) for unit in ("s", "ms", "us", "ns")]
        forms += [(form, "s") for form in TIME_FORMATS if re.fullmatch(r"(?:%\w)+", form)]
    elif not column.is_numeric:
        forms = [(None, "s")]
        forms += [(form, "s") for form in TIME_FORMATS if not re.fullmatch(r"(?:%\w)+", form)]
    fitting = [form for form in forms if _is_time(values, *form)]
    if not fitting:
        return None
    form, unit = fitting[0]
    why = f"times written as {form}" if form else "ISO 8601 times"
    if form is None and column.is_whole:
        why = f"{unit} since 1970"
    if len(fitting) > 1:
        why += f" (or as {fitting[1][0] or 'ISO 8601'}: check it)"
    return {"why": why, "time_format": form, "time_unit": unit} | _parts(values, form, unit)


def _parts(values: pa.Array, form: str | None, unit: str) -> dict[str, tuple[str, ...]]:
    """Parts that the times have, and which of them are the same in all."""
    seconds = time_cells(values, (), form, unit).values
    has_hours = pc.any(pc.not_equal(time_part(seconds, "hour"), "0")).as_py()
    parts = ("hour", "weekday") if has_hours else ("weekday",)
    counts = {part: pc.count_distinct(time_part(seconds, part)).as_py() for part in parts}
    return {"parts": parts, "constant": tuple(part for part in parts if counts[part] < 2)}


def _is_time(values: pa.Array, form: str | None, unit: str) -> bool:
    seconds = time_cells(values, (), form, unit).values
    low, high = PLAUSIBLE_TIMES
    usable = pc.and_(pc.greater_equal(seconds, low), pc.less(seconds, high))
    share = pc.sum(pc.fill_null(usable, False).cast(pa.int64())).as_py() / max(len(values), 1)
    return share >= 0.98


def _find_split(
    columns: list[_Column],
) -> tuple[_Column | None, tuple[str, str, str] | None]:
    for column in columns:
        if column.distinct != 3:
            continue
        found = [
            next((value for value in column.values if value.strip().lower() in names), None)
            for names in SPLIT_NAMES
        ]
        if None not in found:
            train, valid, test = found
            return column, (str(train), str(valid), str(test))
    return None, None


def _named(
    columns: Iterable[_Column], words: Sequence[str], roles: dict[str, Any]
) -> _Column | None:
    """The column whose name says what it is, an id before others of this name."""
    for ending in ("_id", "id", "", "_key", "_no", "_number", "_hash", "_code", "_name"):
        for word in words:
            for column in columns:
                if column.key == word + ending and column.name not in roles:
                    return column
    return None


def _guess(column: _Column, given: tuple[Role, str] | None) -> ColumnGuess:
    role, why, settings, warning = _role(column, given)
    examples = tuple(column.values[:EXAMPLES])
    return ColumnGuess(
        column.name, column.distinct, column.missing, examples, role, why, settings, warning
    )


def _role(column: _Column, given: tuple[Role, str] | None) -> tuple[Role, str, dict[str, Any], str]:
    if given is not None:
        role, why = given
        settings = {"min_count": 2} if role in ("user", "item") and _is_large(column) else {}
        return role, why, settings, ""
    if not column.is_readable:
        return "left out", f"{column.type}: no plain values", {}, ""
    if column.distinct == 0:
        return "left out", "no value at all", {}, ""
    if column.distinct == 1 and column.missing == 0:
        return "left out", "the same value in every row", {}, ""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return "left out", "a second time", {}, ""
    if _is_row_number(column):
        return "left out", "another value in every row: it names the row", {}, ""
    separator = _separator(column)
    if separator is not None:
        why = f"several values in a cell, between {separator!r}"
        return "field", why, {"kind": "multi_valued", "separator": separator}, ""
    kind, why = _kind(column)
    if kind == "numeric":
        return "field", why, {"kind": "numeric"}, ""
    settings = {"min_count": 2} if _is_large(column) else {}
    length = float(np.mean([len(value) for value in column.values[:10_000]]))
    if column.distinct > 0.5 * column.rows and column.rows >= 50 and " " in column.values[0]:
        if length > LONG_TEXT:
            return "left out", f"long text, {length:.0f} characters on average", {}, ""
        warning = "text, nearly all of it different: as an id it says little"
        return "field", "text", {"min_count": 2}, warning
    return "field", why, settings, ""


def _kind(column: _Column) -> tuple[str, str]:
    if not column.is_numeric or pa.types.is_boolean(column.type):
        is_hex = all(re.match(HEX, value) for value in column.values[:1000])
        return "categorical", "hexadecimal codes" if is_hex else "words"
    if column.has_leading_zeros:
        return "categorical", "numbers with leading zeros"
    if IDS.search(column.key) or column.key.endswith("id"):
        return "categorical", "its name says that the numbers are codes"
    if re.fullmatch(r"i_?[0-9]+", column.key):
        return "numeric", "numbers"
    if re.fullmatch(r"c_?[0-9]+|cat(?:egory)?_?[0-9]+", column.key):
        return "categorical", "numbered category"
    if all(re.match(HEX, value) for value in column.values[:1000]) and column.distinct > FEW_VALUES:
        lengths = {len(value) for value in column.values[:1000]}
        if len(lengths) == 1:
            return "categorical", "codes of one length"
    if not column.is_whole:
        return "numeric", "numbers with decimals"
    if column.distinct <= FEW_VALUES:
        return "categorical", f"whole numbers, only {column.distinct} values"
    return "numeric", "whole numbers"


def _is_row_number(column: _Column) -> bool:
    """Whether the column only counts or names the rows."""
    if column.rows < EXAMPLES or column.distinct < 0.999 * column.rows or column.missing > 0:
        return False
    if ROW_IDS.search(column.key) or column.key in ("", "unnamed_0", "index", "row"):
        return True
    if not column.is_whole or column.has_leading_zeros or column.rows < 50:
        return False
    steps = np.diff(number_cells(column.text, ()).values.to_numpy(zero_copy_only=False))
    return bool((steps == 1).all())


def _separator(column: _Column) -> str | None:
    if _is_list(column.type):
        return "|"
    if column.is_numeric:
        return None
    values = column.values[:10_000]
    for sign in SEPARATORS:
        parts = [[part for part in value.split(sign) if part.strip()] for value in values]
        several = sum(len(cell) > 1 for cell in parts)
        flat = [part for cell in parts for part in cell]
        if several < 0.1 * len(values) or not flat:
            continue
        # names of one to three words; a semicolon in prose parts longer pieces
        short = float(np.mean([len(part.split()) for part in flat])) <= 3
        if short and (sign == "|" or len(set(flat)) < len(flat) or several == len(values)):
            return sign
    return None


def _is_large(column: _Column) -> bool:
    return column.distinct > MANY_VALUES


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


def _key(name: str) -> str:
    """A name in lower case with underscores: "userId" and "User ID" are both "user_id"."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^0-9a-zA-Z]+", "_", parted).strip("_").lower()
