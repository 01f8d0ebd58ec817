"""Plotly figures of the evaluation report and of training curves.

A model has the same colour in every figure. Figures have a fixed size, so that they look alike in
Kedro-Viz, in MLflow and as pictures.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clickprompt.evaluation.layout import lay_out, new_figure, new_panels, note_figure
from clickprompt.evaluation.report import BACKBONE, CONSTANT, METRICS, Report
from clickprompt.evaluation.tables import MODEL_NAMES

# Okabe and Ito's colours, which colour-blind readers can tell apart.
MODEL_COLOURS = {
    CONSTANT: "#bdbdbd",
    BACKBONE: "#6b6b6b",
    "clickprompt_without_plm": "#0072B2",
    "clickprompt_with_plm": "#D55E00",
}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2")
DASHES = ("solid", "dash", "dot", "dashdot")
METRIC_NAMES = {"auc": "AUC", "log_loss": "LogLoss"}
BETTER = {"auc": "higher is better", "log_loss": "lower is better"}

Key = tuple[str, str | None, str | None]  # model, ctr, plm


def plot_calibration(report: Report) -> go.Figure:
    """Share of clicks against mean predicted probability, per bin of equal row count.

    With several seeds the first one is drawn.
    """
    figure = new_figure("Calibration on the test split", width=940, height=640)
    _add_diagonal(figure, "perfect calibration")
    style = _Style(report)
    for row in _first_seeds(report["calibration"]):
        share = [b["positive_share"] for b in row["bins"]]
        figure.add_scatter(
            x=[b["mean_probability"] for b in row["bins"]],
            y=share,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [b["high"] - s for b, s in zip(row["bins"], share, strict=True)],
                "arrayminus": [s - b["low"] for b, s in zip(row["bins"], share, strict=True)],
                "thickness": 1,
                "width": 3,
            },
            customdata=[b["rows"] for b in row["bins"]],
            hovertemplate="mean probability %{x:.3f}, clicked %{y:.3f}, %{customdata} rows",
            mode="lines+markers",
            line=style.line(_key(row)),
            name=style.name(_key(row)),
        )
    figure.update_xaxes(title="mean predicted probability of a click", range=[0, 1])
    figure.update_yaxes(title="share of clicks (bars: 95 % interval)", range=[0, 1])
    return figure


def plot_roc(report: Report) -> go.Figure:
    """True against false positive rate; the legend has the AUC. The first of several seeds."""
    figure = new_figure("ROC curve on the test split", width=940, height=640)
    _add_diagonal(figure, "chance (AUC 0.5)")
    style = _Style(report)
    aucs = {(_key(row), row["seed"]): row["auc"] for row in report["results"]}
    for row in _first_seeds(report["roc"]):
        figure.add_scatter(
            x=row["false_positive_rate"],
            y=row["true_positive_rate"],
            mode="lines",
            line=style.line(_key(row)),
            name=f"{style.name(_key(row))} (AUC {aucs[_key(row), row['seed']]:.4f})",
        )
    figure.update_xaxes(title="false positive rate", range=[0, 1])
    figure.update_yaxes(title="true positive rate", range=[0, 1])
    return figure


def plot_long_tail(report: Report) -> go.Figure:
    """AUC and LogLoss in the four quadrants of tail and non-tail users and items, as bars.

    Where the data name no user (item), there are two bars of items (users); where they name
    neither, the figure says so.
    """
    if not report["long_tail"]:
        return note_figure(
            "Long tail", "The data name neither user nor item: no row is of the tail."
        )
    style = _Style(report)
    train = report["train"]
    named = [kind for kind in ("user", "item") if train[f"{kind}_tail_limit"] is not None]
    figure = new_panels(
        f"Long tail: test metrics by how often {' and '.join(named)} "
        f"{'were' if len(named) > 1 else 'was'} seen in training",
        [f"{METRIC_NAMES[metric]} ({BETTER[metric]})" for metric in METRICS],
        height=820,
    )
    quadrants: dict[tuple[str | None, str | None], int] = {}
    values: dict[Key, dict[tuple[str | None, str | None], list[dict[str, Any]]]] = {}
    for row in report["long_tail"]:
        quadrant = (row["user"], row["item"])
        quadrants[quadrant] = row["rows"]
        values.setdefault(_key(row), {}).setdefault(quadrant, []).append(row)
    labels = []
    for (user, item), rows in quadrants.items():
        sides = ((user, "user"), (item, "item"))
        parts = [f"{side} {kind}" for side, kind in sides if side is not None]
        labels.append("<br>".join([*parts, f"{rows:,} rows"]))
    for position, metric in enumerate(METRICS, start=1):
        means = {
            key: [_mean([row[metric] for row in by_quadrant[quadrant]]) for quadrant in quadrants]
            for key, by_quadrant in values.items()
        }
        known = [mean for row in means.values() for mean in row if mean is not None]
        # An AUC bar starts at chance, or below the worst value where that is worse than chance.
        start = min([0.5, *(value - 0.05 for value in known)]) if metric == "auc" else 0.0
        for key, row in means.items():
            figure.add_bar(
                x=labels,
                y=[start if value is None else value for value in row],
                text=[_bar_text(value, len(means)) for value in row],
                hovertemplate="%{x}: %{y:.4f}",
                textposition="outside",
                textangle=0,
                cliponaxis=False,
                marker_color=style.colour(key),
                marker_pattern_shape=style.pattern(key),
                name=style.name(key),
                legendgroup=str(key),
                showlegend=position == 1,
                row=position,
                col=1,
            )
        top = 1.0 if metric == "auc" else 1.15 * max([*known, 0.1])
        title = f"AUC (axis starts at {start:.2g})" if metric == "auc" else "LogLoss"
        figure.update_yaxes(title=title, range=[start, top], row=position, col=1)
    limits = [
        f"{train[f'{kind}_tail_limit']} train rows of the {kind} "
        f"({train[f'{kind}_tail_share']:.0%} of the {kind}s)"
        for kind in named
    ]
    unnamed = {"user", "item"} - set(named)
    note = f"; the data name no {unnamed.pop()}" if unnamed else ""
    figure.update_xaxes(title=f"tail: at most {' or '.join(limits)}{note}", row=2, col=1)
    figure.update_layout(barmode="group", bargap=0.25)
    return figure


def plot_comparison(report: Report) -> go.Figure:
    """AUC and LogLoss of each model on test: the mean, its deviation, and each seed as a dot.

    Points and not bars: the differences are small beside the values, and bars that do not start
    at 0 would misstate them. The constant prediction is left out, as it would hide them too.
    """
    style = _Style(report)
    lines = [line for line in report["summary"] if line["model"] != CONSTANT]
    lines = [line for line in lines if line["auc"] is not None]
    seeds = max([line["seeds"] for line in lines], default=1)
    titles = [f"{METRIC_NAMES[metric]} ({BETTER[metric]})" for metric in METRICS]
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.06
    )
    subject = f"mean and deviation over {seeds} seeds" if seeds > 1 else "one seed"
    lay_out(figure, f"Models on the test split, {subject}", 1000, 230 + 60 * len(lines))
    for column, metric in enumerate(METRICS, start=1):
        for line in lines:
            key = _key(line)
            each = [row[metric] for row in report["results"] if _key(row) == key]
            if len(each) > 1:
                figure.add_scatter(
                    x=each,
                    y=[style.name(key)] * len(each),
                    mode="markers",
                    marker={"color": style.colour(key), "size": 7, "opacity": 0.4},
                    row=1,
                    col=column,
                )
            figure.add_scatter(
                x=[line[metric]],
                y=[style.name(key)],
                error_x={"type": "data", "array": [line[f"{metric}_deviation"] or 0], "width": 6},
                mode="markers+text",
                marker={"color": style.colour(key), "size": 14},
                text=[f"{line[metric]:.4f}"],
                textposition="top center",
                row=1,
                col=column,
            )
        figure.update_xaxes(title=METRIC_NAMES[metric], nticks=6, row=1, col=column)
    names = [style.name(_key(line)) for line in lines]
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
    figure.update_yaxes(range=[-0.5, len(lines) - 0.4])
    figure.update_layout(showlegend=False)
    return figure


def plot_training_curves(
    history: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]], title: str
) -> go.Figure:
    """Curves of one training stage, one panel below the other.

    Args:
        history: one entry an epoch, with ``epoch`` and the quantities of that epoch.
        panels: title of a panel (its y axis) -> names of the quantities drawn in it.
        title: of the figure.

    Raises:
        ValueError: no panels, or a quantity that no entry of the history has.
    """
    if not panels:
        raise ValueError("panels must name at least one panel, got none")
    known = {name for entry in history for name in entry}
    unknown = [name for names in panels.values() for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"panels must name quantities of the history ({', '.join(sorted(known))}), "
            f"got {unknown[0]!r}"
        )
    figure = new_panels(title, [], height=130 + 290 * len(panels), rows=len(panels))
    palette = ("#0072B2", "#D55E00", *OTHER_COLOURS)
    for position, (heading, names) in enumerate(panels.items(), start=1):
        legend = "legend" if position == 1 else f"legend{position}"
        for name, colour in zip(names, itertools.cycle(palette), strict=False):
            entries = [entry for entry in history if entry.get(name) is not None]
            figure.add_scatter(
                x=[entry["epoch"] for entry in entries],
                y=[entry[name] for entry in entries],
                mode="lines+markers",
                line={"color": colour},
                name=name.replace("_", " "),
                legend=legend,
                row=position,
                col=1,
            )
        figure.update_yaxes(title=heading, row=position, col=1)
        axis = next(figure.select_yaxes(row=position, col=1))
        figure.update_layout({legend: {"x": 1.02, "y": axis.domain[1], "yanchor": "top"}})
    figure.update_xaxes(dtick=max(1, len(history) // 12))
    figure.update_xaxes(title="epoch", row=len(panels), col=1)
    return figure


class _Style:
    """Names and looks of the report's models: colour by model, dash by CTR model and PLM."""

    def __init__(self, report: Report) -> None:
        self.keys = [_key(line) for line in report["summary"]]
        trained = [key for key in self.keys if key[0] != CONSTANT]
        self.several_ctr = len({ctr for _, ctr, _ in trained}) > 1
        self.several_plm = len({plm for _, _, plm in trained if plm}) > 1
        self.others = sorted({model for model, _, _ in trained} - set(MODEL_COLOURS))

    def name(self, key: Key) -> str:
        model, ctr, plm = key
        details = [ctr if self.several_ctr else None, plm if self.several_plm else None]
        suffix = ", ".join(detail for detail in details if detail)
        return MODEL_NAMES.get(model, model) + (f" ({suffix})" if suffix else "")

    def colour(self, key: Key) -> str:
        if key[0] in MODEL_COLOURS:
            return MODEL_COLOURS[key[0]]
        return OTHER_COLOURS[self.others.index(key[0]) % len(OTHER_COLOURS)]

    def line(self, key: Key) -> dict[str, Any]:
        return {"color": self.colour(key), "dash": DASHES[self._variant(key) % len(DASHES)]}

    def pattern(self, key: Key) -> str:
        return ("", "/", ".", "x")[self._variant(key) % 4]

    def _variant(self, key: Key) -> int:
        """Number of this key among those of the same model, hence of the same colour."""
        return [other for other in self.keys if other[0] == key[0]].index(key)


def _key(row: Mapping[str, Any]) -> Key:
    return row["model"], row["ctr"], row["plm"]


def _first_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of each model, ctr and plm."""
    first: dict[Key, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(_key(row), row)
    return list(first.values())


def _bar_text(value: float | None, bars: int) -> str:
    """Label of one of so many bars side by side; there is room for five."""
    if value is None:
        return "undefined" if bars <= 5 else "?"
    return f"{value:.3f}" if bars <= 5 else ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _add_diagonal(figure: go.Figure, name: str) -> None:
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": "#bdbdbd", "dash": "dash"},
        name=name,
        hoverinfo="skip",
    )
