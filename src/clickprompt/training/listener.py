"""Who hears of every epoch of a stage, and may end it: the search for hyperparameters.

The loop is called through a pipeline whose nodes take data and parameters only, so the listener is
no argument but stands around the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

History = Sequence[Mapping[str, Any]]
EpochListener = Callable[[str, History], None]

_LISTENER: ContextVar[EpochListener | None] = ContextVar("epoch_listener", default=None)


class StageStoppedError(Exception):
    """The listener ended a stage: it has no result, and its checkpoint is deleted.

    Args:
        stage: its name.
        history: one entry a finished epoch.
    """

    def __init__(self, stage: str, history: History) -> None:
        super().__init__(f"{stage} was stopped after epoch {len(history)}")
        self.stage = stage
        self.history = list(history)


@contextmanager
def listening(listener: EpochListener) -> Iterator[None]:
    """Let ``listener(stage, history)`` hear of the stages that are trained inside.

    It is called after every epoch that is followed by another, and before the first step of a stage
    that continues. It may raise :class:`StageStoppedError`.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def is_listening() -> bool:
    """Whether there is a listener; it is one of this process only."""
    return _LISTENER.get() is not None


def tell_epochs(stage: str, history: History) -> None:
    """Call the listener, if there is one."""
    listener = _LISTENER.get()
    if listener is not None and history:
        listener(stage, history)
