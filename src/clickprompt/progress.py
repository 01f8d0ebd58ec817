"""Progress of long work: rate and time left, on a terminal or in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich import get_console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """How far a piece of work is.

    Attributes:
        name: of the work.
        done, total: in ``unit``; total None: not known.
        unit: what is counted.
        rows_per_second: rate since it began.
        seconds_left: None where it is not known.
        note: in words.
    """

    name: str
    done: int
    total: int | None
    unit: str
    rows_per_second: float
    seconds_left: float | None
    note: str = ""

    @property
    def rate(self) -> str:
        """Rows per second, in words."""
        return f"{self.rows_per_second:,.0f} rows/s"

    def line(self) -> str:
        """All of it but the name, in words."""
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [self.note, f"{self.unit} {self.done:,}{of}", self.rate]
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return ", ".join(part for part in parts if part)


_listener: Callable[[Standing], None] | None = None


@contextmanager
def progress_told_to(listener: Callable[[Standing], None]) -> Iterator[None]:
    """Inside, :class:`RateProgress` of this process shows nothing itself: ``listener`` is told."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


class _Shown:
    """Bars, where there is a terminal, as long as the context lasts."""

    _bar: Progress | None = None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()


class RateProgress(_Shown):
    """A bar with rows per second and time left; log lines where there is no terminal.

    Args:
        name: shown to the user.
        total: units of the whole work; None where it is not known.
        done: units that an earlier, interrupted run has finished.
        unit: what is counted: rows, or steps of many rows.
        every_seconds: between two lines of the log form.
        shown: False says nothing (of several processes one speaks).
    """

    def __init__(
        self,
        name: str,
        *,
        total: int | None,
        done: int = 0,
        unit: str = "row",
        every_seconds: float = 20.0,
        shown: bool = True,
    ) -> None:
        self._name, self._total, self._done, self._unit = name, total, done, unit
        self._listener = _listener if shown else None
        self._every = every_seconds if shown else float("inf")
        self._start = self._last = time.monotonic()
        self._first = done
        self._rows = 0
        console = get_console()  # the log's: lines of another one would be drawn over the bars
        if self._listener is not None:
            self._every = 1.0
            self._last -= self._every  # the first step is told
        elif shown and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(name, total=total, completed=done, note="")

    def advance(self, rows: int, note: str = "") -> None:
        """So many rows are done: one step of them, where steps are counted."""
        self._done += rows if self._unit == "row" else 1
        self._rows += rows
        now = time.monotonic()
        if self._bar:
            words = f"{note}  {self._standing(now, note).rate}"
            self._bar.update(self._task, completed=self._done, note=words)
        elif now - self._last >= self._every:
            self._last = now
            standing = self._standing(now, note)
            if self._listener is not None:
                self._listener(standing)
            else:
                logger.info("%s: %s", self._name, standing.line())

    def _standing(self, now: float, note: str) -> Standing:
        seconds = max(now - self._start, 1e-9)
        left = None
        if self._total is not None and self._done > self._first:
            left = seconds / (self._done - self._first) * (self._total - self._done)
        rate = self._rows / seconds
        return Standing(self._name, self._done, self._total, self._unit, rate, left, note)


class ManyProgress(_Shown):
    """Bars of works that go on at the same time, under one for all; log lines without a terminal.

    The bars are drawn when :meth:`show` or :meth:`end` is called.

    Args:
        name: of all of them together.
        total: number of works.
        every_seconds: between two log lines on the same work.
    """

    def __init__(self, name: str, *, total: int, every_seconds: float = 20.0) -> None:
        self._total, self._every = total, every_seconds
        self._told: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        console = get_console()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", table_column=Column(ratio=3, no_wrap=True)),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                TextColumn("{task.fields[count]}"),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[left]}", justify="right"),
                console=console,
                transient=True,
                expand=True,
                # A thread that draws while a line is logged would count the lines above it as
                # they were before a bar came or went, and wipe out a line of the log.
                auto_refresh=False,
            )
            self._all = self._bar.add_task(name, total=total, count=f"0/{total}", rate="", left="")

    def show(self, work: str, standing: Standing) -> None:
        """A work, which may have begun now, stands like this."""
        if self._bar:
            done, total, left = standing.done, standing.total, standing.seconds_left
            state: dict[str, Any] = {
                "description": f"  {work}: {standing.name}",
                "completed": done,
                "total": total,
                "count": f"{done:,}" if total is None else f"{done:,}/{total:,}",
                "rate": standing.rate,
                "left": "" if left is None else clock(left),
            }
            if work in self._tasks:
                self._bar.update(self._tasks[work], refresh=True, **state)
            else:
                self._tasks[work] = self._bar.add_task(**state)
            return
        now = time.monotonic()
        if now - self._told.setdefault(work, now) >= self._every:
            self._told[work] = now
            logger.info("%s: %s: %s", work, standing.name, standing.line())

    def end(self, work: str, *, done: int, seconds_left: float | None) -> None:
        """A work has ended, as so many have now."""
        self._told.pop(work, None)
        if self._bar:
            if work in self._tasks:
                self._bar.remove_task(self._tasks.pop(work))
            left = "" if seconds_left is None else clock(seconds_left)
            count = f"{done}/{self._total}"
            self._bar.update(self._all, completed=done, count=count, left=left, refresh=True)


def clock(seconds: float) -> str:
    """``75`` as ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
