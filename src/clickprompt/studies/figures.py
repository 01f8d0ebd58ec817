"""Plotly figures of a study, from its summary."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from clickprompt.evaluation.layout import lay_out, new_figure, note_figure
from clickprompt.studies.summary import ANY, BETTER, WORSE, Summary
from clickprompt.studies.tables import row_name

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2")
VERDICT_COLOURS = {BETTER: "#0072B2", WORSE: "#D55E00"}
UNDECIDED = "#8a8a8a"
FEWEST_ROWS = 50  # of a quadrant: an AUC of fewer says nothing, and hides the others
SIGNS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")
HATCHES = ("", "/", "x")  # of bars, where the colours begin again


def study_figures(summary: Summary) -> dict[str, go.Figure]:
    """All figures: name -> figure; one with nothing to draw says why."""
    return {
        "differences": plot_differences(summary),
        "plm_size": plot_plm_size(summary),
        "long_tail": plot_long_tail(summary),
        "training_time": plot_training_time(summary),
    }


def plot_differences(summary: Summary) -> go.Figure:
    """Difference in test AUC of each comparison: bar, 95 % interval over seeds, seeds as dots."""
    entries = [entry for entry in summary["comparisons"] if entry["metric"] == "auc"]
    if not entries:
        return note_figure("Differences in AUC", "No two models that are compared are finished.")
    names = [_versus(entry) for entry in entries]
    figure = lay_out(go.Figure(), "Differences in test AUC", 1100, 190 + 34 * len(entries))
    for verdict in (BETTER, WORSE, None):
        chosen = [
            (name, entry)
            for name, entry in zip(names, entries, strict=True)
            if entry["verdict"] == verdict or (verdict is None and _undecided(entry))
        ]
        if not chosen:
            continue
        figure.add_bar(
            y=[name for name, _ in chosen],
            x=[entry["difference"] for _, entry in chosen],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [(e["high"] or e["difference"]) - e["difference"] for _, e in chosen],
                "arrayminus": [e["difference"] - (e["low"] or e["difference"]) for _, e in chosen],
                "color": "#222222",
                "thickness": 1.2,
            },
            orientation="h",
            marker_color=VERDICT_COLOURS.get(verdict or "", UNDECIDED),
            name=verdict or "no difference shown",
            hovertemplate="%{y}: %{x:+.4f}",
        )
    figure.add_scatter(
        x=[value for entry in entries for value in entry["differences"]],
        y=[name for name, e in zip(names, entries, strict=True) for _ in e["differences"]],
        mode="markers",
        marker={"color": "#222222", "size": 5, "opacity": 0.6},
        name="a seed",
    )
    figure.add_vline(x=0, line_color="#444444", line_width=1)
    figure.update_xaxes(title="difference in AUC (bar: mean; line: 95 % interval over seeds)")
    figure.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], automargin=True, title=None
    )
    return figure


def plot_plm_size(summary: Summary) -> go.Figure:
    """Improvement in AUC against the size of the language model, a line for each model.

    A line is a mean over the seeds that all its points have: between sizes only the size differs.
    """
    title = "Improvement in AUC against the size of the language model"
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in summary["rows"]:
        sized = "plm" in row["labels"] and row["plm_parameters"] is not None
        if not sized or not row["auc_improvements"]:
            continue
        rest = {axis: value for axis, value in row["labels"].items() if axis != "plm"}
        lines.setdefault(row_name(rest), []).append(row)
    if not any(len(points) > 1 for points in lines.values()):
        return note_figure(title, "The study has no models with language models of several sizes.")
    figure = new_figure(title, width=1000, height=560)
    for number, (name, points) in enumerate(lines.items()):
        points.sort(key=itemgetter("plm_parameters"))
        seeds = set.intersection(*(set(row["auc_improvements"]) for row in points))
        if not seeds:
            continue
        figure.add_scatter(
            x=[row["plm_parameters"] / 1e6 for row in points],
            y=[100 * fmean(row["auc_improvements"][seed] for seed in seeds) for row in points],
            text=[row["labels"]["plm"] for row in points],
            hovertemplate="%{text}, %{x:.1f} M: %{y:+.3f} %",
            mode="lines+markers",
            line={"color": COLOURS[number % len(COLOURS)]},
            marker={"symbol": SIGNS[number // len(COLOURS) % len(SIGNS)], "size": 9},
            name=f"{name} ({len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'})",
        )
    figure.add_hline(y=0, line_color="#444444", line_width=1, line_dash="dash")
    figure.update_xaxes(title="parameters of the language model, millions")
    figure.update_yaxes(title="relative improvement in AUC, %")
    return figure


def plot_long_tail(summary: Summary) -> go.Figure:
    """Gain in AUC over the counterpart in each quadrant of tail and non-tail users and items."""
    title = "Gain in AUC by how often user and item were seen in training"
    compared = [e for e in summary["long_tail"] if e["auc_difference"] is not None]
    entries = [e for e in compared if e["rows"] >= FEWEST_ROWS]
    few = sorted({_quadrant(e).replace("<br>", ", ") for e in compared if e not in entries})
    if not entries:
        return note_figure(title, "No compared models have predictions of tail and non-tail rows.")
    figure = new_figure(title, width=1100, height=560)
    models: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        models.setdefault(row_name(entry["labels"]), []).append(entry)
    for number, (name, quadrants) in enumerate(models.items()):
        figure.add_bar(
            x=[_quadrant(entry) for entry in quadrants],
            y=[entry["auc_difference"] for entry in quadrants],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [_above(entry) for entry in quadrants],
                "arrayminus": [_below(entry) for entry in quadrants],
                "thickness": 1,
            },
            marker={
                "color": COLOURS[number % len(COLOURS)],
                "pattern": {"shape": HATCHES[number // len(COLOURS) % len(HATCHES)]},
            },
            name=name,
            hovertemplate="%{x}: %{y:+.4f}",
        )
    figure.add_hline(y=0, line_color="#444444", line_width=1)
    figure.update_yaxes(title="difference in AUC (line: 95 % interval over seeds)")
    if few:
        figure.update_xaxes(title=f"not drawn, too few rows: {'; '.join(few)}")
    figure.update_layout(barmode="group", bargap=0.25)
    return figure


def plot_training_time(summary: Summary) -> go.Figure:
    """Test AUC against the seconds of training, all stages together."""
    rows = [row for row in summary["rows"] if row["auc"] is not None]
    title = "Test AUC against training time"
    if not rows:
        return note_figure(title, "No cell is finished.")
    figure = new_figure(title, width=1100, height=620)
    for number, row in enumerate(rows):
        figure.add_scatter(
            x=[max(row["seconds"], 0.01)],
            y=[row["auc"]],
            error_y={"type": "data", "array": [row["auc_deviation"] or 0], "thickness": 1},
            mode="markers",
            marker={
                "color": COLOURS[number % len(COLOURS)],
                "symbol": SIGNS[number // len(COLOURS) % len(SIGNS)],
                "size": 11,
            },
            name=row_name(row["labels"]),
            hovertemplate="%{x:.1f} s: %{y:.4f}",
        )
    trained_on = sorted({where for row in rows for where in row["trained_on"]})
    figure.update_xaxes(
        title=f"seconds of training, all stages ({'; '.join(trained_on)})", type="log"
    )
    figure.update_yaxes(title="test AUC (line: deviation over seeds)")
    return figure


def _versus(entry: Mapping[str, Any]) -> str:
    """What differs between two models, and what they share, in one line."""
    own, other = entry["labels"], entry["with"]
    differs = [axis for axis in own if own[axis] != other[axis]]
    shared = [own[a] for a in own if a not in differs and own[a] != ANY]
    first = row_name({axis: own[axis] for axis in differs})
    second = row_name({axis: other[axis] for axis in differs})
    where = f" ({' '.join(shared)})" if shared else ""
    return f"{first} − {second}{where}"


def _undecided(entry: Mapping[str, Any]) -> bool:
    return entry["verdict"] not in VERDICT_COLOURS


def _quadrant(entry: Mapping[str, Any]) -> str:
    sides = [f"{entry[kind]} {kind}" for kind in ("user", "item") if entry[kind] is not None]
    return "<br>".join([*sides, f"{entry['rows']:,} rows"])


def _above(entry: Mapping[str, Any]) -> float:
    high: float | None = entry["auc_high"]
    return 0.0 if high is None else high - entry["auc_difference"]


def _below(entry: Mapping[str, Any]) -> float:
    low: float | None = entry["auc_low"]
    return 0.0 if low is None else entry["auc_difference"] - low
