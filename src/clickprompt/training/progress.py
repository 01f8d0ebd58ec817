"""Progress of a training stage: rate and time left, on a terminal or in a log."""

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


class StageProgress:
    """A bar with rows per second and time left; log lines where there is no terminal.

    Args:
        stage: name shown to the user.
        total: optimiser steps of the whole stage.
        done: steps that an earlier, interrupted run has finished.
        every_seconds: between two lines of the log form.
    """

    def __init__(
        self, stage: str, *, total: int, done: int = 0, every_seconds: float = 20.0
    ) -> None:
        self._stage, self._total, self._done = stage, total, done
        self._every = every_seconds
        self._start = self._last = time.monotonic()
        self._first_step = done
        self._rows = 0
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
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
            self._task = self._bar.add_task(stage, total=total, completed=done, note="")

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

    def advance(self, rows: int, note: str) -> None:
        """One optimiser step of ``rows`` rows is done."""
        self._done += 1
        self._rows += rows
        now = time.monotonic()
        rate = self._rows / max(now - self._start, 1e-9)
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=f"{note}  {rate:,.0f} rows/s")
        elif now - self._last >= self._every:
            self._last = now
            steps = self._done - self._first_step
            left = (now - self._start) / steps * (self._total - self._done)
            logger.info(
                "%s: %s, step %d of %d, %s rows/s, %s left",
                self._stage, note, self._done, self._total, f"{rate:,.0f}", clock(left),
            )  # fmt: skip


def clock(seconds: float) -> str:
    """``75`` as ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
