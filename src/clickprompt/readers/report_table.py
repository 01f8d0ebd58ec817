"""The reader's report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

EXAMPLE_WIDTH = 80  # characters of an example's text; the report holds more
KINDS = ("dropped", "repaired", "skipped")


def report_table(report: Mapping[str, Any]) -> Table:
    """What became of the rows, for ``rich.print``.

    One line for the rows read, one for those kept, and one for each reason, the most frequent
    first: kind, reason, count, share of the rows read, and the first example with file and line.
    Shares are given for rows of the ratings file only: what was repaired or skipped may be a line
    of another file.

    Args:
        report: ``ReadReport.as_dict``.
    """
    read = report["rows_read"]
    table = Table(
        title=Text(f"{read:,} rows read, {report['rows_kept']:,} kept"),
        caption=Text("share: of the rows read; all examples stand in the ingestion report"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    lines = [
        ("read", "", read, _share(read, read), ""),
        ("kept", "", report["rows_kept"], _share(report["rows_kept"], read), ""),
    ]
    for kind in KINDS:
        reasons = sorted(report[kind].items(), key=lambda entry: (-entry[1], entry[0]))
        for reason, count in reasons:
            share = _share(count, read) if kind == "dropped" else "–"
            example = _first_example(report, kind, reason)
            lines.append((kind, reason.replace("_", " "), count, share, example))
    counts = [f"{line[2]:,}" for line in lines]
    # In a narrow terminal words may wrap, but no digit may be lost.
    table.add_column("Rows", no_wrap=True)
    if len(lines) > 2:
        table.add_column("Reason", overflow="fold", min_width=8)
    table.add_column("Count", justify="right", no_wrap=True, min_width=max(map(len, counts)))
    table.add_column("Share", justify="right", no_wrap=True, min_width=7)
    if len(lines) > 2:
        table.add_column("First example", overflow="fold", min_width=8)
    for (kind, reason, _, share, example), count in zip(lines, counts, strict=True):
        cells = (kind, reason, count, share, example) if len(lines) > 2 else (kind, count, share)
        table.add_row(*map(Text, cells))  # Text: brackets in an example are no markup
    return table


def printable(text: str) -> str:
    """Text that a terminal shows as it is: control characters and the like are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _share(count: int, read: int) -> str:
    if read == 0:
        return "–"
    return "<0.01%" if 0 < count / read < 0.00005 else f"{count / read:.2%}"


def _first_example(report: Mapping[str, Any], kind: str, reason: str) -> str:
    """``file:line: text`` of the first example of a reason; empty where it cannot be told."""
    examples = [example for example in report["examples"] if example["reason"] == reason]
    if any(reason in report[other] for other in KINDS if other != kind):
        # examples hold no kind: ratings are told from other lines by the name of their file
        ratings = _ratings_file(report)
        wanted = kind == "dropped"
        examples = [e for e in examples if ratings and (e["file"] == ratings) == wanted]
    if not examples:
        return ""
    text = printable(examples[0]["text"])
    if len(text) > EXAMPLE_WIDTH:
        text = text[: EXAMPLE_WIDTH - 1] + "…"
    return f"{printable(examples[0]['file'])}:{examples[0]['line']}: {text}"


def _ratings_file(report: Mapping[str, Any]) -> str | None:
    """The file of the rows that were dropped, if a reason tells that belongs to them only."""
    elsewhere = set(report["repaired"]) | set(report["skipped"])
    for example in report["examples"]:
        if example["reason"] in report["dropped"] and example["reason"] not in elsewhere:
            return str(example["file"])
    return None
