"""The sections of the results page on the conversion at scale and against other libraries."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import log_log_svg
from benchmarks.markdown import grid, origin

FIGURE = "images/scale.svg"  # beside the page
LIBRARIES = {"fuxictr": "FuxiCTR", "recbole": "RecBole"}
PEERS = {
    "recbole_item_file": "RecBole, features of a book once, in an item file",
    "recbole_one_table": "RecBole, all fields in every row",
    "fuxictr_without_ray": "FuxiCTR's FeatureProcessor alone, without Ray",
    "fuxictr_blocks": "FuxiCTR, written in parts",
    "fuxictr_one_file": "FuxiCTR, default",
}


def scale_section(result: dict[str, Any]) -> str:
    """Table and figure of the cells (engine, rows)."""
    parts = [
        "## Modality conversion at scale",
        "```sh\npython -m benchmarks.scale\n```",
        "From a generated interactions table (Parquet) with the 15 fields of Goodreads to the "
        "model input, text pieces included; each cell in a process of its own, without imports. "
        "Users are a 50th of the rows and books a 100th. Memory is the largest sum over the "
        "process and those that it starts (Spark's Java). The last column compares the seconds a "
        f"row with those of the engine's smallest table: 1 is linear. {origin(result)}",
        grid(
            ["engine", "rows", "seconds", "rows per second", "peak MiB", "seconds a row"],
            [_scale_row(cell, result["cells"]) for cell in result["cells"]],
        ),
    ]
    if _finished(result["cells"]):
        parts.append(f"![Seconds and peak memory by rows and engine]({FIGURE})")
    return "\n\n".join(parts)


def scale_figure(result: dict[str, Any]) -> str | None:
    """Rows against seconds and memory as SVG; None without a finished cell."""
    cells = _finished(result["cells"])
    if not cells:
        return None
    engines = list(dict.fromkeys(cell["engine"] for cell in cells))
    panels = {
        title: {
            engine: [(cell["rows"], cell[key]) for cell in cells if cell["engine"] == engine]
            for engine in engines
        }
        for title, key in (("seconds", "seconds"), ("peak memory, MiB", "peak_memory_mb"))
    }
    return log_log_svg(panels, "rows")


def peers_section(result: dict[str, Any]) -> str:
    """Our conversion beside the preprocessing of other libraries."""
    entries = result["entries"]
    ours = [entry for entry in entries if entry["name"] not in PEERS]
    others = [entry for entry in entries if entry["name"] in PEERS]
    quickest, rival = (min(group, key=lambda e: e["seconds"]) for group in (ours, others))
    versions = dict(
        package
        for entry in others
        for package in entry["versions"].items()
        if package[0] in LIBRARIES
    )
    installed = ", ".join(f"{LIBRARIES[name]} {versions[name]}" for name in sorted(versions))
    return "\n\n".join(
        [
            "## Modality conversion against other libraries",
            "```sh\npython -m benchmarks.peers\n```",
            f"The same {result['rows']:,} generated rows of {result['fields']} fields, in turns on "
            f"one machine, {result['repeats']} times; the quickest run counts, imports do not. "
            f"{installed}, each in an environment of its own; their settings and their sources "
            "are in `benchmarks/peers/`. Every run's output was checked against the table (rows, "
            "labels, vocabularies, sampled rows).",
            "Ours labels, splits by time, numbers all fields, writes and tokenises the text pieces "
            "and saves the arrays. RecBole labels, splits and numbers, and keeps the result in "
            "memory. FuxiCTR numbers and saves; its rows come labelled and split. Neither makes a "
            f"text view. {origin(result)}",
            grid(
                ["conversion", "seconds (runs)", "rows per second", "peak MiB", "text view"],
                [_peer_row(entry) for entry in [*ours, *others]],
            ),
            f"Quickest of ours ({_name(quickest)}) against the quickest of the others "
            f"({_name(rival)}): {rival['seconds'] / quickest['seconds']:.2f} times as quick.",
        ]
    )


def _scale_row(cell: dict[str, Any], cells: list[dict[str, Any]]) -> list[str]:
    start = [cell["engine"], f"{cell['rows']:,}"]
    if "failed" in cell:
        return [*start, f"did not end: {cell['failed']}", "", "", ""]
    same = [other for other in _finished(cells) if other["engine"] == cell["engine"]]
    least = min(same, key=lambda other: other["rows"])
    ratio = (cell["seconds"] / cell["rows"]) / (least["seconds"] / least["rows"])
    return [
        *start,
        f"{cell['seconds']:.1f}",
        f"{cell['rows_per_second']:,}",
        f"{cell['peak_memory_mb']:,}",
        f"{ratio:.2f}",
    ]


def _finished(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [cell for cell in cells if "failed" not in cell]


def _peer_row(entry: dict[str, Any]) -> list[str]:
    runs = ", ".join(f"{seconds:.2f}" for seconds in entry["all_seconds"])
    return [
        _name(entry),
        f"{entry['seconds']:.2f} ({runs})",
        f"{entry['rows_per_second']:,}",
        f"{entry['peak_memory_mb']:,}",
        "no" if entry["name"] in PEERS else "yes",
    ]


def _name(entry: dict[str, Any]) -> str:
    return PEERS.get(entry["name"]) or "ours, " + entry["name"].removeprefix("ours_")
