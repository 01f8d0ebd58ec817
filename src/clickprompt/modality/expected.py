"""Counts that a data set is published with, beside those that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from clickprompt.parameters import DataParameters

# count in data.expected -> what it counts
NAMES = {
    "read": "rows read",
    "filtered": "rows after the filter",
    "users": "users after the filter",
    "items": "items after the filter",
    "labelled": "rows with a label",
    "repeated": "repeated rows (user, item, time)",
}


@dataclass(frozen=True)
class Comparison:
    """One count: what is published, and what was found (None: it was not counted)."""

    name: str
    published: int
    found: int | None

    @property
    def differs(self) -> bool:
        """Whether both are known and not the same."""
        return self.found is not None and self.found != self.published


def compare_counts(
    data: DataParameters,
    data_report: Mapping[str, Any],
    filter_report: Mapping[str, Any] | None = None,
    interaction_facts: Mapping[str, Any] | None = None,
) -> list[Comparison]:
    """Put the counts of ``data.expected`` beside those of a run.

    Args:
        data: expected counts, user, item and reader.
        data_report: ``build_data_report``; its ``rows`` are used.
        filter_report: of ``filter_interactions``; ``users`` and ``items`` after a filter.
        interaction_facts: of ``InteractionsCheck.finish``; ``repeated``, and ``distinct`` users and
            items where no filter is active.

    Returns:
        One entry for each count that is expected; none if ``data.expected`` is null or of another
        reader.
    """
    expected = data.expected_counts
    if expected is None:
        return []
    rows, left, facts = data_report["rows"], filter_report or {}, interaction_facts or {}
    distinct = facts.get("distinct", {})
    found = {
        "read": rows["read"],
        "filtered": rows["kept"] - rows["filtered_out"],
        "users": left.get("users") or distinct.get(data.user),
        "items": left.get("items") or distinct.get(data.item),
        "labelled": rows["labelled"],
        "repeated": facts.get("repeated"),
    }
    return [
        Comparison(text, published, found[name])
        for name, text in NAMES.items()
        if (published := getattr(expected, name)) is not None
    ]


def differences(counts: Sequence[Comparison]) -> str | None:
    """One sentence on all counts that differ; None where none does."""
    wrong = [c for c in counts if c.differs]
    if not wrong:
        return None
    listed = ", ".join(f"{c.name} must be {c.published:,}, got {c.found:,}" for c in wrong)
    return (
        f"{listed}: the files, the label rule, the filter or the reader's options are not those of "
        f"the published counts; `data.expected: null` switches this comparison off"
    )


def counts_table(counts: Sequence[Comparison], reader: str) -> Table:
    """The comparison for ``rich.print``: count, published, found, whether they agree."""
    table = Table(
        title=Text(f"Published counts of {reader}"), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("Count", overflow="fold")
    cells = [
        (
            count.name,
            f"{count.published:,}",
            "–" if count.found is None else f"{count.found:,}",
            "not counted" if count.found is None else "differs" if count.differs else "agrees",
        )
        for count in counts
    ]
    for position, heading in ((1, "Published"), (2, "Found")):
        # In a narrow terminal names may wrap, but no digit may be lost.
        width = max([len(heading), *(len(line[position]) for line in cells)])
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    table.add_column("", min_width=len("differs"))
    for line, count in zip(cells, counts, strict=True):
        style = "bold red" if count.differs else ""
        table.add_row(*map(Text, line), style=style)
    return table
