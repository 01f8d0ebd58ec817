"""Progress of long work: rate and time left; bars on a terminal, lines in a log."""

from __future__ import annotations

import logging
import threading
import time
from io import StringIO

import pytest
from rich.console import Console
from rich.logging import RichHandler

from clickprompt import progress
from clickprompt.progress import ManyProgress, RateProgress, Standing, progress_told_to
from tests.terminal import COLUMNS, screen_of


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def standing(done: int, name: str = "pretrain") -> Standing:
    return Standing(name, done, 100, "step", 250.0, 75.0, "epoch 1")


def test_a_log_line_says_rate_and_time_left(clock, caplog):
    caplog.set_level("INFO")
    with RateProgress("score", total=1000, done=200) as bar:
        for _ in range(4):  # 100 rows in 10 s: 10 rows/s; after 400 of the 800 that are left
            clock.now += 10
            bar.advance(100, "file 1")
    assert [record.getMessage() for record in caplog.records] == [
        "score: file 1, row 400 of 1,000, 10 rows/s, 1:00 left",
        "score: file 1, row 600 of 1,000, 10 rows/s, 0:40 left",
    ]


def test_steps_are_counted_and_their_rows_are_the_rate(clock, caplog):
    caplog.set_level("INFO")
    with RateProgress("pretrain", total=3, unit="step", every_seconds=5) as bar:
        clock.now += 8
        bar.advance(256)
    (record,) = caplog.records
    assert record.getMessage() == "pretrain: step 1 of 3, 32 rows/s, 0:16 left"


def test_work_without_a_known_end_has_no_time_left(clock, caplog):
    caplog.set_level("INFO")
    with RateProgress("reading", total=None) as bar:
        clock.now += 20
        bar.advance(5000)
    assert caplog.messages == ["reading: row 5,000, 250 rows/s"]


def test_a_listener_is_told_once_a_second_and_nothing_else_is_shown(clock, caplog):
    caplog.set_level("INFO")
    told: list[Standing] = []
    with progress_told_to(told.append), RateProgress("score", total=100) as bar:
        for _ in range(100):
            clock.now += 0.05
            bar.advance(1)
    assert len(told) == 5
    assert told[0] == Standing("score", 1, 100, "row", pytest.approx(20), pytest.approx(4.95))
    assert not caplog.records
    with RateProgress("score", total=100) as bar:
        clock.now += 20
        bar.advance(1)
    assert len(told) == 5
    assert len(caplog.records) == 1


def test_what_is_not_shown_tells_no_listener(clock):
    told: list[Standing] = []
    with progress_told_to(told.append), RateProgress("score", total=9, shown=False) as bar:
        clock.now += 60
        bar.advance(1)
    assert not told


def test_each_of_several_works_has_its_own_lines(clock, caplog):
    caplog.set_level("INFO")
    with ManyProgress("study", total=2, every_seconds=40) as many:
        for step in range(1, 101):
            clock.now += 1
            many.show("first", standing(step))
            if step > 30:
                many.show("second", standing(step, "finetune"))
        many.end("first", done=1, seconds_left=3.0)
    assert caplog.messages == [
        "first: pretrain: epoch 1, step 41 of 100, 250 rows/s, 1:15 left",
        "second: finetune: epoch 1, step 71 of 100, 250 rows/s, 1:15 left",
        "first: pretrain: epoch 1, step 81 of 100, 250 rows/s, 1:15 left",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """What is written on a terminal, by bars and by a log such as Kedro's."""
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=COLUMNS, color_system=None)
    monkeypatch.setattr("rich._console", console)
    logger = logging.getLogger("tests.progress")
    handler = RichHandler(show_path=False, show_time=False, show_level=False)
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield written, logger
    logger.removeHandler(handler)


def shown(written: StringIO) -> list[str]:
    return [line for line in screen_of(written.getvalue()) if line]


def test_log_lines_stand_above_the_bars(terminal):
    written, logger = terminal
    with ManyProgress("study mine", total=3) as many:
        many.show("a seed 0", standing(1))
        many.show("b seed 0", standing(50, "finetune"))
        logger.info("first line")
        many.end("a seed 0", done=1, seconds_left=60.0)
        many.show("c seed 0", standing(2))
        logger.info("second line")
        lines = shown(written)
        assert lines[:2] == ["first line", "second line"]
        assert [line.split("━")[0].split("╸")[0].strip() for line in lines[2:]] == [
            "study mine",
            "b seed 0: finetune",
            "c seed 0: pretrain",
        ]
        assert lines[2].split()[-2:] == ["1/3", "1:00"]
        assert lines[3].split()[-4:] == ["50/100", "250", "rows/s", "1:15"]
    assert shown(written)[:2] == ["first line", "second line"]
    assert "━" not in "".join(shown(written))


def test_bars_that_come_and_go_wipe_out_no_log_line(terminal):
    written, logger = terminal
    threads = set(threading.enumerate())
    lines = [f"cell {number} of 20." for number in range(20)]
    with ManyProgress("study mine", total=20) as many:
        for number, line in enumerate(lines):
            many.show("a", standing(1))
            many.show("b", standing(1))
            many.end("ab"[number % 2], done=number, seconds_left=None)
            # Another thread that draws here would know no longer how many lines are above it.
            assert set(threading.enumerate()) <= threads
            logger.info(line)
    assert shown(written) == lines


def test_one_bar_stands_below_the_log_too(terminal):
    written, logger = terminal
    with RateProgress("score", total=10) as bar:
        bar.advance(1)
        logger.info("a line")
        bar.advance(4, "file 2")
        time.sleep(0.5)
        lines = shown(written)
    assert lines[0] == "a line"
    (bar_line,) = lines[1:]
    assert bar_line.startswith("score ")
    assert "5/10" in bar_line
    assert shown(written) == ["a line"]
