"""What all figures look like. Sizes are fixed, so that they are alike wherever they are shown."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots


def note_figure(title: str, text: str) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(title, width=940, height=240)
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def new_figure(title: str, width: int, height: int) -> go.Figure:
    """An empty figure."""
    return lay_out(go.Figure(), title, width, height)


def new_panels(title: str, titles: list[str], height: int, rows: int = 2) -> go.Figure:
    """Panels one below the other, with one x axis."""
    figure = make_subplots(
        rows=rows,
        cols=1,
        shared_xaxes=True,
        subplot_titles=titles or None,
        vertical_spacing=0.24 / rows**1.5,
    )
    return lay_out(figure, title, 1100, height)


def lay_out(figure: go.Figure, title: str, width: int, height: int) -> go.Figure:
    """Size, margins, fonts and axes that all figures share."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.02, "xanchor": "left"},
        font_size=14,
        width=width,
        height=height,
        margin={"l": 80, "r": 30, "t": 90, "b": 80},
        legend={"x": 1.02, "y": 1, "yanchor": "top"},
    )
    axis = {"showline": True, "linecolor": "#888888", "ticks": "outside"}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure
