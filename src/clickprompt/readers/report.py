"""The report of a reader: every row that was dropped or repaired, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

EXAMPLES_PER_REASON = 100
EXAMPLE_LENGTH = 200


class ReadReport:
    """Counts with examples; ``as_dict`` is what is stored.

    Three kinds of events are kept apart, so that ``rows_read == rows_kept + dropped`` always
    holds for the ratings:

    - ``dropped``: rating rows that are not in the interactions table;
    - ``repaired``: rows or files that are used after a change or with a gap;
    - ``skipped``: lines of the other files (movies, users) that could not be used.
    """

    def __init__(self) -> None:
        self.rows_read = 0
        self.rows_kept = 0
        self.files: dict[str, str] = {}
        self._counts: dict[str, Counter[str]] = {
            kind: Counter() for kind in ("dropped", "repaired", "skipped")
        }
        self._examples: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def add(
        self, kind: str, reason: str, file: str, count: int, lines: Iterable[tuple[int, str]]
    ) -> None:
        """Count ``count`` events of one reason and keep the first ones as examples.

        Args:
            kind: ``dropped``, ``repaired`` or ``skipped``.
            reason: a short name, the same for all events of its sort.
            file: name of the file.
            count: how many events.
            lines: line number (from 1) and text of the events, at least the first
                ``EXAMPLES_PER_REASON`` of them.
        """
        if count == 0:
            return
        self._counts[kind][reason] += count
        examples = self._examples.setdefault((kind, reason), [])
        for line, text in lines:
            if len(examples) >= EXAMPLES_PER_REASON:
                break
            if len(text) > EXAMPLE_LENGTH:
                text = text[:EXAMPLE_LENGTH] + "…"
            examples.append({"file": file, "line": line, "reason": reason, "text": text})

    def reasons(self, kind: str) -> dict[str, int]:
        """Reason -> count of one kind."""
        return dict(self._counts[kind])

    def examples(self) -> list[dict[str, Any]]:
        """All kept examples: file, line, reason and text."""
        return [example for some in self._examples.values() for example in some]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        assert self.rows_read == self.rows_kept + sum(self.reasons("dropped").values())
        return {
            "rows_read": self.rows_read,
            "rows_kept": self.rows_kept,
            **{kind: self.reasons(kind) for kind in self._counts},
            "examples": self.examples(),
            "files": dict(self.files),
        }
