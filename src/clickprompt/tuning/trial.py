"""The trial that runs now: the shell asks, so that it marks the trial's run and keeps its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class RunningTrial:
    """A trial of a study.

    Attributes:
        study: name.
        number: of the trial, from 0; None while what all trials share is made.
    """

    study: str
    number: int | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.study} {'data' if self.number is None else f'trial {self.number}'}"


_RUNNING: ContextVar[RunningTrial | None] = ContextVar("running_trial", default=None)


def running_trial() -> RunningTrial | None:
    """The trial inside of which this is called."""
    return _RUNNING.get()


@contextmanager
def inside_trial(trial: RunningTrial) -> Iterator[None]:
    """Make ``trial`` the one that runs."""
    token = _RUNNING.set(trial)
    try:
        yield
    finally:
        _RUNNING.reset(token)
