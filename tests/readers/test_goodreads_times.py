"""Times of Goodreads, parsed all at once, against strptime one by one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clickprompt.readers.goodreads.times import DAYS, MONTHS, PATTERN, seconds

FORMAT = "%a %b %d %H:%M:%S %z %Y"
TEXT = pa.large_string()


def slow(text: str | None) -> int | None:
    """Seconds by strptime, None for what is no time from 1970 on in the published form."""
    if text is None or len(text) != len(PATTERN) or not text.isascii():
        return None
    # strptime takes fewer digits, other cases and white space too
    if text[:3] not in DAYS or text[4:7] not in MONTHS or text[20] not in "+-":
        return None
    numbers = [text[a : a + 2] for a in (8, 11, 14, 17, 21, 23, 26, 28)]
    between = [text[at] for at in (3, 7, 10, 13, 16, 19, 25)]
    if not all(n.isdigit() for n in numbers) or "".join(between) != "   ::  ":
        return None
    try:
        time = datetime.strptime(text, FORMAT)
    except ValueError:
        return None
    if time.second > 59:
        return None
    found = int((time - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds())  # noqa: UP017
    return found if found >= 0 else None


def check(texts: list[str | None]) -> None:
    found, is_time = seconds(pa.array(texts, TEXT))
    expected = [slow(text) for text in texts]
    assert is_time.tolist() == [value is not None for value in expected]
    assert found.tolist() == [value or 0 for value in expected]


def test_published_example():
    found, is_time = seconds(pa.array([PATTERN], TEXT))
    assert (found.tolist(), is_time.tolist()) == ([1366384515], [True])


def test_every_day_of_four_centuries():
    start = datetime(1970, 1, 1, 12)
    days = [start + timedelta(days=n) for n in range(146_097)]
    texts = [f"Mon {MONTHS[d.month - 1]} {d.day:02} 12:00:00 +0000 {d.year}" for d in days]
    found, is_time = seconds(pa.array(texts, TEXT))
    assert is_time.all()
    assert (found == [n * 86_400 + 43_200 for n in range(146_097)]).all()


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(1969, 12, 30), datetime(9998, 1, 1), timezones=ZONES).map(
    lambda time: time.strftime(FORMAT)
)


@settings(deadline=None)
@given(st.lists(st.one_of(TIMES, st.none(), st.text(max_size=31)), max_size=20))
@example([])
@example([None, ""])
def test_as_strptime(texts):
    check([t.encode("utf-8", "replace").decode() if t is not None else None for t in texts])


@settings(deadline=None, max_examples=300)
@given(TIMES, st.integers(0, 29), st.sampled_from("0123456789 :+-aJTé"))
@example("Thu Jan 01 00:00:59 +0000 1970", 17, "6")
@example("Wed Feb 29 00:00:00 +0000 2012", 29, "1")
def test_as_strptime_after_a_change_of_one_character(text, at, character):
    changed = text[:at] + character + text[at + 1 :]
    check([text, changed, None, changed[: len(PATTERN) - 1]])


@pytest.mark.parametrize("start", [0, 1, 3])
def test_part_of_a_longer_array(start):
    texts = [PATTERN, PATTERN.replace("15 -", "16 -"), "x", PATTERN.replace("15 -", "17 -")]
    found, is_time = seconds(pa.array(texts, TEXT)[start:])
    assert found.tolist() == [1366384515, 1366384516, 0, 1366384517][start:]
    assert is_time.tolist() == [True, True, False, True][start:]
