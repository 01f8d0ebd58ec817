"""Times as Goodreads writes them, "Fri Apr 19 08:15:15 -0700 2013" -> seconds since 1970."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.text_table import to_numpy

PATTERN = "Fri Apr 19 08:15:15 -0700 2013"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# the characters that stand between the parts, by place
_BETWEEN = {at: character for at, character in enumerate(PATTERN) if character in " :"}
_DAYS_OF_MONTH = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def seconds(times: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Parse times, by the names of months in English whatever the locale, all at once.

    Args:
        times: text (n,); the name of the day must be one, but is not compared with the date.

    Returns:
        Seconds since 1970 UTC (n,) int64, 0 where the text is no such time, and which (n,) bool
        are one: from 1970 on.
    """
    length = to_numpy(pc.fill_null(pc.binary_length(times), 0))
    fitting = np.flatnonzero(length == len(PATTERN))
    found = np.zeros(len(times), dtype=np.int64)
    is_time = np.zeros(len(times), dtype=bool)
    if len(fitting):
        found[fitting], is_time[fitting] = _parse(_characters(times, fitting))
    return found, is_time


def _characters(times: pa.Array, rows: np.ndarray) -> np.ndarray:
    """Bytes (rows, 30) uint8 of the given rows."""
    if len(rows) < len(times):
        times = times.take(pa.array(rows))
    text = times.cast(pa.large_binary())
    offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset :]
    start, end = offsets[0], offsets[len(text)]
    data = np.frombuffer(text.buffers()[2], dtype=np.uint8)[start:end]
    return data.reshape(len(text), len(PATTERN))


def _parse(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (n,), 0 where bytes (n, 30) are no time, and which are one."""
    day_name = _name(text[:, 0:3], DAYS)
    month = _name(text[:, 4:7], MONTHS)
    is_time = (day_name >= 0) & (month >= 0)
    for at, character in _BETWEEN.items():
        is_time &= text[:, at] == ord(character)
    sign = np.where(text[:, 20] == ord("-"), -1, 1)
    is_time &= (text[:, 20] == ord("+")) | (sign < 0)
    day, hour, minute, second, zone_hours, zone_minutes, century, year = (
        _two_digits(text, at, is_time) for at in (8, 11, 14, 17, 21, 23, 26, 28)
    )
    year += 100 * century
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    last_day = _DAYS_OF_MONTH[month] + (leap & (month == 1))
    is_time &= (day >= 1) & (day <= last_day) & (hour < 24) & (minute < 60) & (second < 60)
    is_time &= (zone_hours < 24) & (zone_minutes < 60)
    days = _days(year, month) + day - 1
    zone = sign * (zone_hours * 3600 + zone_minutes * 60)
    found = days * 86_400 + hour * 3600 + minute * 60 + second - zone
    is_time &= found >= 0
    return np.where(is_time, found, 0), is_time


def _name(letters: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Number (n,) of the name that letters (n, 3) spell, -1 for none."""
    codes = letters.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    known = np.array([int.from_bytes(name.encode(), "big") for name in names], dtype=np.int32)
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], codes), len(names) - 1)
    return np.where(known[order][at] == codes, order[at], -1)


def _two_digits(text: np.ndarray, at: int, is_time: np.ndarray) -> np.ndarray:
    """The number (n,) int64 at the place; ``is_time`` becomes false where it is none."""
    tens, ones = (text[:, place].astype(np.int64) - ord("0") for place in (at, at + 1))
    is_time &= (tens >= 0) & (tens <= 9) & (ones >= 0) & (ones <= 9)
    return 10 * tens + ones


def _days(year: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Days from 1970 to the first of the month, of the Gregorian calendar; month from 0."""
    before = year - 1
    leap_days = before // 4 - before // 100 + before // 400 - 477  # 477 before 1970
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    start = np.concatenate([[0], np.cumsum(_DAYS_OF_MONTH)[:-1]])
    return (year - 1970) * 365 + leap_days + start[month] + (leap & (month > 1))
