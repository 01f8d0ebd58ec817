"""A study for people: the best trials as a table, and one page of figures."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clickprompt.progress import clock
from clickprompt.tuning.space import Dimension, Space, short_names, show_value
from clickprompt.tuning.study import DIVERGED, VALUES, TunedStudy, finished_trials

if TYPE_CHECKING:
    import optuna
    from rich.table import Table

METRIC = "valid AUC"
MOST_COLUMNS = 3  # of parameters, in a terminal of 80; more go into one
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 1100px; margin: 2em auto; color: #222 }}</style>
</head><body>
<h1>{title}</h1>
<p>{summary}</p>
<pre>{best}</pre>
{figures}
</body></html>
"""


def trials_table(tuned: TunedStudy, rows: int = 10) -> Table:
    """The best trials with their parameters, for ``rich.print``; failed ones are left out."""
    from rich import box
    from rich.table import Table

    trials = sorted(finished_trials(tuned.study), key=_rank)
    table = Table(title=f"Study {tuned.name}: {_summary(tuned)}", box=box.SIMPLE_HEAD)
    for heading in ("trial", METRIC, "epochs", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("end", no_wrap=True)
    short = short_names(tuned.space)
    is_wide = len(short) > MOST_COLUMNS
    for name in ("parameters",) if is_wide else short.values():
        table.add_column(
            name.replace("_", " "), justify="left" if is_wide else "right", min_width=8
        )
    for trial in trials[:rows]:
        values = {short[name]: show_value(v) for name, v in trial.user_attrs[VALUES].items()}
        words = ", ".join(f"{name} {value}" for name, value in values.items())
        table.add_row(
            str(trial.number),
            "–" if trial.value is None else f"{trial.value:.4f}",
            str(len(trial.intermediate_values)),
            clock(trial.duration.total_seconds() if trial.duration else 0),
            _end(trial),
            *((words,) if is_wide else values.values()),
        )
    if len(trials) > rows:
        table.caption = f"the best {rows} of {len(trials)}"
    return table


def write_page(tuned: TunedStudy, folder: Path) -> Path:
    """One HTML page that needs no network: history, learning curves, parameters, importances.

    Args:
        tuned: with a trial that came to its end.
        folder: the page is ``<folder>/<study>.html`` in it.

    Returns:
        The page.
    """
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=position == 0)
        for position, figure in enumerate(_figures(tuned))
    ]
    page = PAGE.format(
        title=html.escape(f"Study {tuned.name}"),
        summary=html.escape(f"{_summary(tuned)}. Stage {tuned.stage}."),
        best=html.escape("\n".join(f"{k}: {v}" for k, v in tuned.best_values.items())),
        figures="\n".join(parts),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tuned.name}.html"
    path.write_text(page, encoding="utf-8")
    return path


def _figures(tuned: TunedStudy) -> list[Any]:
    """Optuna's figures with the field's words, short names and colours that can be seen."""
    from optuna import visualization as show

    complete = [t for t in tuned.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]

    history = show.plot_optimization_history(tuned.study, target_name=METRIC)
    history.update_layout(title="Valid AUC by trial")
    history.update_xaxes(dtick=max(1, len(tuned.study.trials) // 10))

    epochs = show.plot_intermediate_values(tuned.study)
    epochs.update_layout(title="Valid AUC by epoch", xaxis_title="Epoch", yaxis_title=METRIC)
    longest = max(len(trial.intermediate_values) for trial in complete)
    epochs.update_xaxes(dtick=max(1, longest // 10))

    slices = show.plot_slice(tuned.study, target_name=METRIC)
    slices.update_layout(title="Valid AUC by parameter", width=None)
    slices.update_xaxes(exponentformat="power")
    short = short_names(tuned.space)
    slices.for_each_xaxis(lambda axis: axis.update(title=short[axis.title.text]))

    figures = [history, epochs, _parallel(complete, tuned.space), slices]
    # Equal values have no differences to explain.
    if len({trial.value for trial in complete}) > 1 and len(tuned.space) > 1:
        shares = show.plot_param_importances(tuned.study, target_name=METRIC)
        shares.update_layout(
            title="Share of each parameter in the differences of valid AUC",
            xaxis_title="Share (PED-ANOVA)",
            yaxis_title=None,
        )
        figures.append(shares)
    return figures


def _parallel(trials: list[optuna.trial.FrozenTrial], space: Space) -> Any:
    """Parallel coordinates of the trials; Optuna's own are too pale to be read."""
    from plotly import graph_objects

    metric = [trial.value for trial in trials]
    short = short_names(space)
    axes = [
        _axis(
            dimension, short[dimension.name], [t.user_attrs[VALUES][dimension.name] for t in trials]
        )
        for dimension in space
    ]
    figure = graph_objects.Figure(
        graph_objects.Parcoords(
            dimensions=[*axes, {"label": METRIC, "values": metric}],
            line={"color": metric, "colorscale": "Plasma", "colorbar": {"title": METRIC}},
        )
    )
    return figure.update_layout(title="Parameters of each trial", margin={"t": 110})


def _axis(dimension: Dimension, label: str, values: list[Any]) -> dict[str, Any]:
    """One axis of the parallel coordinates: plotly knows neither words nor logarithms there."""
    if dimension.kind == "choice":
        words = [str(list(c) if isinstance(c, tuple) else c) for c in dimension.choices]
        places = [words.index(str(value)) for value in values]
        return {
            "label": label,
            "values": places,
            "range": [0, len(words) - 1],
            "tickvals": [*range(len(words))],
            "ticktext": words,
        }
    if not dimension.log:
        ends = [dimension.low, dimension.high]
        return {"label": label, "values": values, "range": ends}
    low, high = math.log10(dimension.low), math.log10(dimension.high)
    ticks = [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "label": label,
        "values": [math.log10(value) for value in values],
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [f"{10**tick:.2g}" for tick in ticks],
    }


def _summary(tuned: TunedStudy) -> str:
    best = tuned.best
    return (
        f"best {METRIC} {best.value:.4f} in trial {best.number} of "
        f"{len(finished_trials(tuned.study))} finished ones"
    )


def _rank(trial: optuna.trial.FrozenTrial) -> tuple[bool, float]:
    """Trained to the end first, then by the metric; diverged ones have none."""
    value = float("-inf") if trial.value is None else trial.value
    return trial.state.name != "COMPLETE", -value


def _end(trial: optuna.trial.FrozenTrial) -> str:
    if trial.state.name == "COMPLETE":
        return "trained"
    return DIVERGED if trial.user_attrs.get(DIVERGED) else "pruned"
