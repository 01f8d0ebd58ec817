"""Progress of long work: rate and time left, on a terminal or in a log."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)


class RateProgress:
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
        self._every = every_seconds if shown else float("inf")
        self._start = self._last = time.monotonic()
        self._first = done
        self._rows = 0
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if shown and console.is_terminal:
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

    def advance(self, rows: int, note: str = "") -> None:
        """So many rows are done: one step of them, where steps are counted."""
        self._done += rows if self._unit == "row" else 1
        self._rows += rows
        now = time.monotonic()
        rate = f"{self._rows / max(now - self._start, 1e-9):,.0f} rows/s"
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=f"{note}  {rate}")
        elif now - self._last >= self._every:
            self._last = now
            parts = [note, f"{self._unit} {self._done:,}", rate]
            if self._total is not None:
                left = (now - self._start) / (self._done - self._first)
                parts[1] += f" of {self._total:,}"
                parts.append(f"{clock(left * (self._total - self._done))} left")
            logger.info("%s: %s", self._name, ", ".join(part for part in parts if part))


def clock(seconds: float) -> str:
    """``75`` as ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
