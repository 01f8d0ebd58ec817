"""Tables and figures say what the report says."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from clickprompt.evaluation import plots
from clickprompt.evaluation.tables import results_markdown, results_table, table_rows

FIGURES = [plots.plot_calibration, plots.plot_roc, plots.plot_long_tail, plots.plot_comparison]
HISTORY = [
    {"epoch": 1, "train_loss": 0.9, "valid_auc": 0.70, "note": None},
    {"epoch": 2, "train_loss": 0.7, "valid_auc": 0.75, "note": 1.0},
]


def _printed(report, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(report))
    return console.file.getvalue()


def test_rows_hold_the_numbers_of_the_summary(report):
    rows = table_rows(report)
    assert [row["Model"] for row in rows] == [
        "Constant (train rate)",
        "Backbone from scratch",
        "ClickPrompt without PLM",
        "ClickPrompt with PLM",
    ]
    for row, line in zip(rows, report["summary"], strict=True):
        assert row["AUC"] == f"{line['auc']:.4f}"
        assert row["LogLoss"] == f"{line['log_loss']:.4f}"
    assert rows[1]["AUC gain"] == "–"
    assert float(rows[3]["AUC gain"].removesuffix(" %")) == pytest.approx(
        100 * report["results"][2]["auc_improvement"], abs=0.005
    )


def test_several_seeds_give_mean_and_deviation(study_report):
    row = table_rows(study_report)[1]
    assert row["Seeds"] == "3"
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", row["AUC"])


def test_an_undefined_metric_is_called_so(report):
    line = report["summary"][1] | {"auc": None, "auc_improvement": None}
    assert table_rows(report | {"summary": [line]})[0]["AUC"] == "undefined"
    assert "undefined" in _printed(report | {"summary": [line]}, 80)


def test_terminal_table_fits_into_80_columns_and_loses_nothing(report):
    text = _printed(report, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "CTR dcnv2, PLM minilm" in text
    for row in table_rows(report):
        assert row["Model"] in text
        assert row["AUC"] in text
        assert row["LogLoss gain"] in text


def test_ctr_models_have_a_column_when_there_are_several(study_report):
    text = _printed(study_report, 120)
    assert "CTR" in text
    assert "dnn" in text
    assert "PLM minilm" in text


def test_a_language_model_that_no_model_has_gets_no_column(report):
    alone = report | {"summary": report["summary"][:2]}
    assert "CTR dcnv2" in _printed(alone, 80)
    assert "PLM" not in _printed(alone, 80)


def test_best_of_each_metric_is_bold(report):
    columns = {str(column.header): list(column.cells) for column in results_table(report).columns}
    for heading, metric, pick in (("AUC", "auc", max), ("LogLoss", "log_loss", min)):
        best = pick(line[metric] for line in report["summary"])
        bold = [cell for cell in columns[heading] if "bold" in cell]
        assert bold == [f"[bold]{best:.4f}[/bold]"]


def test_markdown_is_a_table_of_equal_rows(study_report):
    lines = results_markdown(study_report).splitlines()
    assert len(lines) == 2 + len(study_report["summary"])
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| Model | CTR | PLM | Seeds | AUC |")


@pytest.mark.parametrize("plot", FIGURES)
@pytest.mark.parametrize("size", ["report", "study_report"])
def test_figures_can_be_read_on_their_own(plot, size, request):
    figure = plot(request.getfixturevalue(size))
    json.loads(figure.to_json())
    assert figure.layout.title.text
    assert figure.layout.width
    assert figure.layout.height
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    assert sum(bool(axis.title.text) for axis in axes) >= 2


@pytest.mark.parametrize("plot", [plots.plot_calibration, plots.plot_roc, plots.plot_long_tail])
def test_a_model_has_one_colour_in_all_figures(report, plot):
    for trace in plot(report).data:
        colour = trace.marker.color if trace.type == "bar" else trace.line.color
        for model, name in plots.MODEL_NAMES.items():
            if trace.name.startswith(name):
                assert colour == plots.MODEL_COLOURS[model]


def test_calibration_figure_holds_the_bins(report):
    trace = plots.plot_calibration(report).data[1]
    bins = report["calibration"][0]["bins"]
    assert list(trace.y) == [b["positive_share"] for b in bins]
    assert [y + up for y, up in zip(trace.y, trace.error_y.array, strict=True)] == pytest.approx(
        [b["high"] for b in bins]
    )


def test_long_tail_bars_are_means_over_seeds_with_the_row_counts_named(study_report):
    figure = plots.plot_long_tail(study_report)
    trace = next(t for t in figure.data if t.name == "ClickPrompt with PLM (dnn)")
    values = [
        row["auc"]
        for row in study_report["long_tail"]
        if (row["model"], row["ctr"], row["user"], row["item"])
        == ("clickprompt_with_plm", "dnn", "non-tail", "non-tail")
    ]
    assert trace.y[3] == pytest.approx(sum(values) / 3)
    rows = [row["rows"] for row in study_report["long_tail"][:4]]
    assert [label.rpartition("<br>")[2] for label in trace.x] == [f"{n} rows" for n in rows]


def test_long_tail_of_data_without_users_is_of_items(report_without_user):
    figure = plots.plot_long_tail(report_without_user)
    rows = [row["rows"] for row in report_without_user["long_tail"][:2]]
    assert sum(rows) == 200
    assert list(figure.data[0].x) == [
        f"tail item<br>{rows[0]} rows",
        f"non-tail item<br>{rows[1]} rows",
    ]
    assert "user" not in figure.layout.title.text
    assert figure.layout.xaxis2.title.text == (
        "tail: at most 1 train rows of the item (25% of the items); the data name no user"
    )


def test_long_tail_of_data_without_users_and_items_says_so(report_without_user_and_item):
    assert report_without_user_and_item["long_tail"] == []
    figure = plots.plot_long_tail(report_without_user_and_item)
    assert len(figure.data) == 0
    (note,) = figure.layout.annotations
    assert note.text == "The data name neither user nor item: no row is of the tail."


@pytest.mark.parametrize("size", ["report_without_user", "report_without_user_and_item"])
def test_the_other_figures_and_tables_need_no_user(size, request, report):
    found = request.getfixturevalue(size)
    assert found["results"] == report["results"]
    for plot in (plots.plot_calibration, plots.plot_roc, plots.plot_comparison):
        assert plot(found) == plot(report)


def test_an_undefined_quadrant_is_written_on_the_bar(report):
    rows = [row | {"auc": None} for row in report["long_tail"]]
    figure = plots.plot_long_tail(report | {"long_tail": rows})
    assert set(figure.data[0].text) == {"undefined"}


def test_comparison_shows_every_seed_and_no_constant(study_report):
    figure = plots.plot_comparison(study_report)
    assert not any("Constant" in name for trace in figure.data for name in trace.y)
    seeds = [trace for trace in figure.data if trace.mode == "markers"]
    assert {len(trace.x) for trace in seeds} == {3}
    assert "3 seeds" in figure.layout.title.text


def test_an_unknown_model_gets_a_colour_and_its_own_name(report):
    renamed = [line | {"model": "mine"} for line in report["summary"][1:2]]
    figure = plots.plot_comparison(report | {"summary": renamed})
    assert figure.data[0].y == ("mine",)
    assert figure.data[0].marker.color == plots.OTHER_COLOURS[0]


def test_training_curves_skip_epochs_without_the_quantity():
    figure = plots.plot_training_curves(
        HISTORY, {"loss": ["train_loss"], "valid": ["valid_auc", "note"]}, "Backbone"
    )
    assert [(trace.name, tuple(trace.x)) for trace in figure.data] == [
        ("train loss", (1, 2)),
        ("valid auc", (1, 2)),
        ("note", (2,)),
    ]
    assert figure.layout.yaxis2.title.text == "valid"


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels must name at least one panel, got none"),
        ({"loss": ["lost"]}, r"history \(epoch, note, train_loss, valid_auc\), got 'lost'"),
    ],
)
def test_wrong_panels_are_named(panels, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_training_curves(HISTORY, panels, "Backbone")
