"""Plotly figures of a stage with prompts: who listens, what is lost without them, who learns."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clickprompt.evaluation.layout import lay_out, new_figure, note_figure
from clickprompt.evaluation.prompts import MEASURES, WAYS, Effect, measure_name

NOT_LOOKED_AT = "Not looked at: the stage has no prompts, or training.diagnostic_rows is null."
SPECIAL = "special tokens"
# Below, at and above what indifferent attention gives.
COLOURS = ((0.0, "#0072B2"), (0.5, "#ffffff"), (1.0, "#D55E00"))
WAY_NAMES = {"on": "on", "off": "off", "shuffled": "of another row"}
WAY_COLOURS = {"on": "#D55E00", "off": "#bdbdbd", "shuffled": "#56B4E9"}
PART_NAMES = {
    "ctr": ("CTR model", "#0072B2"),
    "prompts": ("prompt generator", "#D55E00"),
    "plm": ("language model", "#009E73"),
    "head": ("heads", "#CC79A7"),
    "total": ("all together", "#6b6b6b"),
}
TWO_LINES_UP_TO = 12  # layers; with more, a cell has room for one line


def plot_prompt_attention(attention: Mapping[str, Any] | None, title: str) -> go.Figure:
    """Heat map, layer by field: share of the attention that the prompts get.

    The colour is the share against what indifferent attention would give: white is as much, orange
    more, blue less. A cell says the share, and how many times the indifferent one it is.

    Args:
        attention: of a stage's report; None: the figure says that there is none.
        title: of the figure.
    """
    if attention is None:
        return note_figure(title, NOT_LOOKED_AT)
    layers = attention["layers"]
    fields = [*layers[0]["by_field"], *([SPECIAL] if layers[0]["special_tokens"] else [])]
    cells = [
        [*layer["by_field"].values(), layer["special_tokens"]][: len(fields)] for layer in layers
    ]
    one_line = len(layers) > TWO_LINES_UP_TO
    ratios = [[_ratio(cell) for cell in row] for row in cells]
    furthest = max([1.0, *(abs(r) for row in ratios for r in row if r is not None)])
    columns = []
    for position, field in enumerate(fields):
        alike = [row[position]["indifferent"] for row in cells if row[position]]
        known = f"indifferent: {_span(alike)}" if alike else "no tokens"
        columns.append("<br>".join([*textwrap.wrap(field, 14), known]))
    height = max(400, 290 + len(layers) * (30 if one_line else 56))
    figure = new_figure(title, width=max(940, 300 + 130 * len(fields)), height=height)
    figure.add_heatmap(
        x=columns,
        y=[str(layer["layer"]) for layer in layers],
        z=ratios,
        zmin=-furthest,
        zmax=furthest,
        colorscale=COLOURS,
        text=[[_cell_text(cell, one_line=one_line) for cell in row] for row in cells],
        texttemplate="%{text}",
        customdata=[[cell["indifferent"] if cell else None for cell in row] for row in cells],
        hovertemplate="layer %{y}: %{text}, indifferent %{customdata:.2%}<extra></extra>",
        xgap=2,
        ygap=2,
        colorbar={
            "title": {"text": "times the<br>indifferent share", "side": "top"},
            **_ticks(furthest),
        },
    )
    figure.update_xaxes(title="tokens of", tickangle=0, ticks="", showline=False)
    figure.update_yaxes(
        title="layer", autorange="reversed", type="category", ticks="", showline=False
    )
    subtitle = (
        f"Share of the attention that the text gives to the K = {attention['prompts']} prompts, in "
        f"all {attention['share']:.1%}. Indifferent attention, K / (K + n) for a text of n<br>"
        f"tokens (here {attention['mean_tokens']:.1f} on average), would give them "
        f"{attention['indifferent']:.1%}: white. Orange listens more, blue less."
    )
    return _with_subtitle(figure, title, subtitle)


def plot_prompt_effect(effect: Effect, title: str) -> go.Figure:
    """Bars of each measure on valid with the row's prompts, without, and with another row's.

    Args:
        effect: from `clickprompt.evaluation.prompts.prompt_effect`.
        title: of the figure.
    """
    if not effect:
        return note_figure(title, NOT_LOOKED_AT)
    titles = [
        f"{measure_name(name)} ({MEASURES[name][1]})" if name in MEASURES else measure_name(name)
        for name in effect
    ]
    figure = make_subplots(rows=1, cols=len(effect), subplot_titles=titles, horizontal_spacing=0.14)
    lay_out(figure, title, 120 + 420 * len(effect), 480)
    for column, (name, values) in enumerate(effect.items(), start=1):
        known = [value for value in values.values() if value is not None]
        # As in the other figures, an AUC starts at chance, or below the worst one.
        start = min([0.5, *(value - 0.05 for value in known)]) if name == "auc" else 0.0
        top = max([*known, start + 0.1])
        figure.add_bar(
            x=[WAY_NAMES[way] for way in WAYS],
            y=[_above(values[way], start) for way in WAYS],
            base=start,
            text=["undefined" if values[way] is None else f"{values[way]:.4f}" for way in WAYS],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="prompts %{x}: %{text}<extra></extra>",
            marker_color=[WAY_COLOURS[way] for way in WAYS],
            row=1,
            col=column,
        )
        heading = f"axis starts at {start:.2g}" if start else ""
        figure.update_yaxes(
            title=heading, range=[start, top + 0.12 * (top - start)], row=1, col=column
        )
        figure.update_xaxes(title="prompts", row=1, col=column)
    figure.update_layout(showlegend=False, bargap=0.4)
    return figure


def plot_gradient_norms(
    entries: Sequence[Mapping[str, Any]], title: str, *, clip_norm: float | None = None
) -> go.Figure:
    """Curves of the gradient norm of each part over the steps, before clipping.

    Args:
        entries: ``gradient_norms`` of a stage's report.
        title: of the figure.
        clip_norm: the stage's limit of the norm of all parts together.
    """
    if not entries:
        return note_figure(
            title, "No step was measured: the stage made none, or is older than this figure."
        )
    figure = new_figure(title, width=1100, height=520)
    for part, (name, colour) in PART_NAMES.items():
        known = [entry for entry in entries if entry.get(part) is not None]
        if known:
            figure.add_scatter(
                x=[entry["step"] for entry in known],
                y=[entry[part] for entry in known],
                mode="lines+markers",
                line={"color": colour, "dash": "dash" if part == "total" else "solid"},
                marker={"size": 5},
                name=name,
                hovertemplate=f"{name}, step %{{x}}: %{{y:.3g}}<extra></extra>",
            )
    ends = [
        entry["step"]
        for entry, after in itertools.pairwise(entries)
        if entry["epoch"] != after["epoch"]
    ]
    for end in ends:
        figure.add_vline(x=end + 0.5, line={"color": "#bdbdbd", "dash": "dot", "width": 1})
    if clip_norm is not None:
        figure.add_scatter(
            x=[entries[0]["step"], entries[-1]["step"]],
            y=[clip_norm, clip_norm],
            mode="lines",
            line={"color": "#000000", "width": 1},
            name=f"limit of all together ({clip_norm:g})",
            hoverinfo="skip",
        )
    steps = "optimiser step (dotted: the end of an epoch)" if ends else "optimiser step"
    figure.update_xaxes(title=steps)
    norms = [entry[part] for entry in entries for part in PART_NAMES if entry.get(part)]
    figure.update_yaxes(
        title="norm of the gradient before clipping",
        type="log",
        tickvals=_decades(min(norms, default=1.0), max(norms, default=1.0)),
        tickformat=".3~g",
    )
    return figure


def _ratio(cell: Mapping[str, float] | None) -> float | None:
    """Logarithm to the base 2 of the share in indifferent ones, at least that of 1/1000."""
    if not cell or not cell["indifferent"]:
        return None
    return math.log2(max(cell["share"] / cell["indifferent"], 1e-3))


def _cell_text(cell: Mapping[str, float] | None, *, one_line: bool) -> str:
    if not cell:
        return ""
    share = f"{cell['share']:.1%}"
    if one_line or not cell["indifferent"]:
        return share
    return f"{share}<br>{cell['share'] / cell['indifferent']:.2g} times"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1%}", f"{max(values):.1%}"
    return low if low == high else f"{low} to {high}"


def _ticks(furthest: float) -> dict[str, Any]:
    """Powers of two on the colour bar; 1 is what indifferent attention gives."""
    step = max(1, math.ceil(furthest / 4))
    places = range(-(int(furthest) // step) * step, int(furthest) + 1, step)
    texts = ["1 (indifferent)" if p == 0 else f"1/{2**-p}" if p < 0 else f"{2**p}" for p in places]
    return {"tickvals": list(places), "ticktext": texts}


def _decades(low: float, high: float) -> list[float]:
    """Places of a logarithmic axis: 1, 2 and 5 of each decade, or only 1 where there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    places = (1, 2, 5) if last - first <= 3 else (1,)
    return [place * 10.0**decade for decade in range(first, last + 1) for place in places]


def _above(value: float | None, start: float) -> float:
    return 0.0 if value is None else value - start


def _with_subtitle(figure: go.Figure, title: str, subtitle: str) -> go.Figure:
    figure.update_layout(
        title={
            "text": f"{title}<br><span style='font-size:13px;color:#555555'>{subtitle}</span>",
            "y": 1 - 24 / figure.layout.height,
            "yanchor": "top",
            "yref": "container",
        },
        margin_t=120,
    )
    return figure
