"""What the session that runs now is part of: a search's trial or a study's cell; the shell asks.

The shell then names the tracked run after it, and leaves the project's own results alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunningPart:
    """A part of a search or of a study.

    Attributes:
        study: name.
        name: of the run, for people.
        tags: of the run.
        parameters: logged beside those of the project.
        state_tag: tag that says how the run stands or ended; None: MLflow's status is enough.
        own_results: what training makes stays in memory; False while what all parts share is made.
        experiment: MLflow experiment; None: that of conf.
        output: trained model whose metrics are tracked under names that all models share.
        model_input: folder of arrays other than the catalog's; None: the catalog's.
        tracked: whether there is a run at all.
        config: what conf says, by kind (``parameters``, checked; ``catalog``, ...), for a session
            that need not read the files again; None: it reads them.
    """

    study: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    state_tag: str | None = None
    own_results: bool = True
    experiment: str | None = None
    output: str | None = None
    model_input: Path | None = None
    tracked: bool = True
    config: Mapping[str, Any] | None = None


class RunInterruptedError(RuntimeError):
    """The user stopped the run; an Exception, so that Kedro calls the error hooks."""


_RUNNING: ContextVar[RunningPart | None] = ContextVar("running_part", default=None)


def running_part() -> RunningPart | None:
    """The part inside of which this is called."""
    return _RUNNING.get()


@contextmanager
def inside(part: RunningPart) -> Iterator[None]:
    """Make ``part`` the one that runs."""
    token = _RUNNING.set(part)
    try:
        yield
    finally:
        _RUNNING.reset(token)


@contextmanager
def quiet(levels: Mapping[str, int]) -> Iterator[None]:
    """Leave out what is said alike in every part.

    Args:
        levels: name of a logger -> the level from which it may speak.
    """
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
