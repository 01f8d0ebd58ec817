"""Cells of a table, text or typed, -> what the interactions table holds: text, numbers, times.

Every function takes one Arrow array of any plain type (rows,) and changes no cell silently: what
cannot be used becomes null, and a mask says where.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
WHOLE_NUMBER = r"^-?(?:[0-9]{1,18}|[0-8][0-9]{18})$"  # that fits into 64 bits
TIME_PARTS = ("hour", "weekday")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LARGEST_WHOLE_FLOAT = 2.0**53  # from here on, neighbours cannot be told apart


class Converted(NamedTuple):
    """Converted cells (rows,), null where missing or unusable; ``bad`` (rows,) bool: unusable."""

    values: pa.Array
    bad: np.ndarray


def text_cells(array: pa.Array, missing: Sequence[str], separator: str = "|") -> pa.Array:
    """Cells as text (rows,), exactly as they are; null where missing.

    Whole floats are written without decimals (a column of ids with gaps often is stored as
    floats), lists joined by ``separator``, times as ISO 8601, truth values as true and false.

    Raises:
        ValueError: a type that no text stands for (a structure, a list of lists), or bytes that
            are no UTF-8.
    """
    kind = array.type
    if _is_text(kind):
        text = array if kind == pa.string() else array.cast(pa.string())
    elif pa.types.is_dictionary(kind):
        return text_cells(array.dictionary_decode(), missing, separator)
    elif pa.types.is_floating(kind):
        text = _float_text(array)
    elif _is_list(kind) and not _is_nested(kind.value_type):
        cells = [_joined(cell, missing, separator) for cell in array.to_pylist()]
        text = pa.array(cells, pa.string())
    elif _is_nested(kind):
        raise ValueError(f"must hold plain values or lists of them, got {kind}")
    else:
        try:
            text = array.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"must hold text, got {kind}: {error}") from None
    return _with_null(text, missing)


def number_cells(array: pa.Array, missing: Sequence[str], decimal: str = ".") -> Converted:
    """Cells as finite float64; truth values are 1 and 0.

    Raises:
        ValueError: a type that is no number, such as a list or a time.
    """
    array = _decoded(array)
    if not _is_text(array.type):
        if not (_is_number(array.type) or pa.types.is_boolean(array.type)):
            raise ValueError(f"must hold numbers, got {array.type}")
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.int8())
        values = array.cast(pa.float64(), safe=False)
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
        return _finite(values)
    text = _with_null(array, missing)
    if decimal != ".":
        # a point is then no decimal sign: "1.234" must not become another number
        pointed = pc.match_substring(text, ".")
        text = pc.if_else(pointed, "?", pc.replace_substring(text, decimal, "."))
    try:
        return _finite(pc.cast(text, pa.float64()))
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(text)
        usable = pc.match_substring_regex(text, NUMBER)
        numbers = pc.cast(pc.if_else(usable, text, pa.scalar(None, pa.string())), pa.float64())
        finite = _finite(numbers)
        return Converted(finite.values, finite.bad | _true(pc.invert(usable)))


def label_cells(
    array: pa.Array, missing: Sequence[str], decimal: str, words: Mapping[str, float]
) -> Converted:
    """Cells as float64: numbers, true and false in any case, and the given ``words``."""
    array = _decoded(array)
    if _is_text(array.type):
        text = _with_null(array, missing)
        known = {"true": "1", "false": "0"}
        lower = pc.utf8_lower(text)
        for word, number in known.items():
            text = pc.if_else(pc.equal(lower, word), number, text)
        original = _with_null(array, missing)
        for word, value in words.items():
            text = pc.if_else(pc.equal(original, word), repr(value).replace(".", decimal), text)
        array = text
    return number_cells(array, missing, decimal)


def time_cells(
    array: pa.Array, missing: Sequence[str], time_format: str | None, unit: str
) -> Converted:
    """Cells as int64 seconds since 1970 in UTC; a time without a zone is taken as UTC.

    Args:
        array: text, whole numbers, floats, timestamps or dates.
        missing: texts of a missing value.
        time_format: as in ``strptime``, for text and whole numbers; None: a number counts ``unit``
            since 1970, and other text is ISO 8601.
        unit: ``s``, ``ms``, ``us`` or ``ns``.

    Raises:
        ValueError: a type that is no time.
    """
    array = _decoded(array)
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_date(kind):
            array = array.cast(pa.timestamp("ms"))
        per_second = UNITS_PER_SECOND[array.type.unit]
        return Converted(_seconds(array.cast(pa.int64()), per_second), _none(array))
    if not (_is_text(kind) or _is_number(kind)):
        raise ValueError(f"must hold times, got {kind}")
    if time_format is None and pa.types.is_integer(kind):
        return Converted(_seconds(array.cast(pa.int64()), UNITS_PER_SECOND[unit]), _none(array))
    text = pc.utf8_trim_whitespace(text_cells(array, missing))
    encoded = pc.dictionary_encode(text)
    distinct = encoded.dictionary
    if time_format is not None:
        seconds = _formatted(distinct, time_format)
    else:
        seconds = _numbers_or_iso(distinct, UNITS_PER_SECOND[unit])
    values = seconds.take(encoded.indices)
    return Converted(values, _true(pc.and_(pc.is_valid(text), pc.is_null(values))))


def check_time_format(time_format: str) -> None:
    """Stop where ``strptime`` cannot read what ``strftime`` writes by this format.

    Raises:
        ValueError: it cannot; gives the format.
    """
    known = datetime.datetime(2014, 10, 21, 13, tzinfo=datetime.UTC).strftime(time_format)
    if "%" not in time_format or _parsed(known, time_format) is None:
        raise ValueError(
            "data.table.time_format must be made of the signs of strptime, such as "
            f"'%Y-%m-%d %H:%M:%S', got {time_format!r}"
        )


def time_part(seconds: pa.Array, part: str) -> pa.Array:
    """Hour of the day ("0" ... "23") or name of the weekday, in UTC, as text (rows,)."""
    filled = pc.fill_null(seconds, 0).to_numpy(zero_copy_only=False)
    if part == "hour":
        numbers, names = filled // 3600 % 24, [str(hour) for hour in range(24)]
    else:
        assert part == "weekday"
        numbers, names = (filled // 86400 + 3) % 7, list(WEEKDAYS)  # 1970 began on a Thursday
    text = pa.array(names, pa.string()).take(pa.array(numbers))
    return pc.if_else(pc.is_valid(seconds), text, pa.scalar(None, pa.string()))


def _formatted(distinct: pa.Array, time_format: str) -> pa.Array:
    """Distinct texts -> seconds, null where they are of another format."""
    example = datetime.datetime(2014, 10, 21, 13, tzinfo=datetime.UTC).strftime(time_format)
    quick = pc.strptime(pa.array([example, None]), time_format, "s", error_is_null=True)
    if _seconds_of(quick)[0].as_py() != _parsed(example, time_format):
        # signs that C's strptime lacks, such as %f
        texts = distinct.to_pylist()
        parsed = [None if t is None else _parsed(t, time_format) for t in texts]
        return pa.array(parsed, pa.int64())
    times = pc.strptime(distinct, time_format, "s", error_is_null=True)
    seconds = _seconds_of(times)
    # C's strptime takes 31.02. for the third of March: such days are among the first three
    doubtful = np.flatnonzero(_true(pc.less_equal(pc.day(times), 4)))
    if len(doubtful) == 0:
        return seconds
    wrong = np.zeros(len(distinct), dtype=bool)
    texts = distinct.take(pa.array(doubtful)).to_pylist()
    wrong[doubtful] = [_parsed(text, time_format) is None for text in texts]
    return pc.if_else(pa.array(wrong), pa.scalar(None, pa.int64()), seconds)


def _numbers_or_iso(distinct: pa.Array, per_second: int) -> pa.Array:
    none = pa.scalar(None, pa.string())
    whole = pc.match_substring_regex(distinct, WHOLE_NUMBER)
    number = pc.and_(pc.invert(whole), pc.match_substring_regex(distinct, NUMBER))
    seconds = _seconds(pc.cast(pc.if_else(whole, distinct, none), pa.int64()), per_second)
    if pc.any(number).as_py():
        values = pc.cast(pc.if_else(number, distinct, none), pa.float64())
        values = pc.floor(pc.divide(values, float(per_second)))
        small = pc.less(pc.abs(values), LARGEST_WHOLE_FLOAT)
        values = pc.if_else(small, values, pa.scalar(None, pa.float64()))
        seconds = pc.coalesce(seconds, values.cast(pa.int64()))
    rest = pc.if_else(pc.or_(whole, number), none, distinct)
    if rest.null_count < len(rest):
        seconds = pc.coalesce(seconds, _iso(rest))
    return seconds


def _iso(text: pa.Array) -> pa.Array:
    for zone in (None, "UTC"):
        try:
            times = pc.cast(text, pa.timestamp("us", zone))
        except pa.ArrowInvalid:
            continue
        return _seconds(times.cast(pa.int64()), 10**6)
    return pa.array([None if t is None else _parsed(t, None) for t in text.to_pylist()], pa.int64())


def _parsed(text: str, time_format: str | None) -> int | None:
    """Seconds since 1970 of one text by Python's own parser, or None."""
    try:
        if time_format is None:
            time = datetime.datetime.fromisoformat(text)
        else:
            time = datetime.datetime.strptime(text, time_format)
        if time.tzinfo is None:
            time = time.replace(tzinfo=datetime.UTC)
        return int(time.timestamp() // 1)
    except (ValueError, OverflowError):
        return None


def _seconds_of(times: pa.Array) -> pa.Array:
    return times.cast(pa.int64())


def _seconds(counts: pa.Array, per_second: int) -> pa.Array:
    """Whole numbers, rounded down to seconds (also before 1970)."""
    if per_second == 1:
        return counts
    down = pc.fill_null(counts, 0).to_numpy(zero_copy_only=False) // per_second
    return pc.if_else(pc.is_valid(counts), pa.array(down), pa.scalar(None, pa.int64()))


def _float_text(array: pa.Array) -> pa.Array:
    values = array.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 1e15))
    if pc.all(pc.fill_null(whole, True)).as_py():
        return values.cast(pa.int64()).cast(pa.string())
    encoded = pc.dictionary_encode(values)
    texts = [None if v is None else format(v, ".15g") for v in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _joined(cell: list[Any] | None, missing: Sequence[str], separator: str) -> str | None:
    if cell is None:
        return None
    texts = text_cells(pa.array([part for part in cell if part is not None]), missing)
    return separator.join(text for text in texts.to_pylist() if text is not None) if cell else None


def _with_null(text: pa.Array, missing: Sequence[str]) -> pa.Array:
    if text.type != pa.string():
        text = text.cast(pa.string())
    if not missing:
        return text
    absent = pc.is_in(text, pa.array(list(missing), pa.string()), skip_nulls=True)
    return pc.if_else(absent, pa.scalar(None, pa.string()), text)


def _finite(values: pa.Array) -> Converted:
    bad = _true(pc.invert(pc.is_finite(values)))
    if bad.any():
        values = pc.if_else(pa.array(bad), pa.scalar(None, pa.float64()), values)
    return Converted(values, bad)


def _decoded(array: pa.Array) -> pa.Array:
    if pa.types.is_null(array.type):  # a Parquet column without any value
        return array.cast(pa.string())
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _true(mask: pa.Array) -> np.ndarray:
    """An Arrow mask (rows,) as numpy; null is False."""
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)


def _none(array: pa.Array) -> np.ndarray:
    return np.zeros(len(array), dtype=bool)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_nested(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind)
