"""Figures and table of what the prompts do say what the stage's report says."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from clickprompt.evaluation import prompt_plots
from clickprompt.evaluation.prompts import prompt_effect, prompt_summary
from clickprompt.evaluation.tables import prompts_table

FIELDS = ("user id", "movie title")


def make_attention(layers=2, fields=FIELDS, special=True):
    """Shares of 1, 2, 3, ... percent against an indifferent 2 %."""
    rows = []
    for number in range(layers):
        cells = [
            {"share": 0.01 * (1 + number * len(fields) + place), "indifferent": 0.02}
            for place in range(len(fields))
        ]
        rows.append(
            {
                "layer": number + 1,
                "share": 0.25 * (number + 1),
                "indifferent": 0.02,
                "by_field": dict(zip(fields, cells, strict=True)),
                "special_tokens": {"share": 0.5, "indifferent": 0.02} if special else None,
                "by_head": [0.25],
                "by_prompt": [0.25],
                "by_head_and_prompt": [[0.25]],
            }
        )
    return {
        "prompts": 5, "mean_tokens": 41.25, "share": 0.3, "indifferent": 0.02, "layers": rows
    }  # fmt: skip


PRETRAINED = {
    "stage": "pretrain",
    "metrics": {
        f"valid_mlm_{measure}_prompts_{way}": value
        for measure, values in {"loss": (1.5, 2.5, 2.0), "accuracy": (0.6, 0.4, 0.5)}.items()
        for way, value in zip(("on", "off", "shuffled"), values, strict=True)
    }
    | {"train_loss": 1.2},
    "diagnostics": {"rows": 9, "attention": make_attention()},
}
FINETUNED = {
    "stage": "finetune_with_plm",
    "metrics": {"valid_auc": 0.81, "test_auc": 0.8},
    "diagnostics": {
        "rows": 9,
        "attention": make_attention(),
        "effect": {
            f"valid_{measure}_prompts_{way}": value
            for measure, values in {
                "auc": (0.81, 0.7, None), "log_loss": (0.4, 0.6, 0.5)
            }.items()
            for way, value in zip(("on", "off", "shuffled"), values, strict=True)
        },
    },
}  # fmt: skip


def test_the_effect_is_found_where_the_stage_measured_it():
    assert prompt_effect(PRETRAINED) == {
        "mlm_loss": {"on": 1.5, "off": 2.5, "shuffled": 2.0},
        "mlm_accuracy": {"on": 0.6, "off": 0.4, "shuffled": 0.5},
    }
    assert prompt_effect(FINETUNED) == {
        "auc": {"on": 0.81, "off": 0.7, "shuffled": None},
        "log_loss": {"on": 0.4, "off": 0.6, "shuffled": 0.5},
    }
    assert prompt_effect({"metrics": {"valid_auc": 0.8}, "diagnostics": None}) == {}
    assert prompt_effect({"metrics": {"valid_mlm_loss_prompts_off": 2.0}}) == {}
    summary = prompt_summary(FINETUNED | {"diagnostics": None})
    assert summary == {"stage": "finetune_with_plm", "effect": {}, "attention": None}


def test_heat_map_holds_the_shares_and_marks_the_indifferent_one():
    figure = prompt_plots.plot_prompt_attention(make_attention(), "Attention")
    (heat,) = figure.data
    assert heat.y == ("1", "2")
    assert [column.split("<br>")[0] for column in heat.x] == [*FIELDS, "special tokens"]
    assert all(column.endswith("indifferent: 2.0%") for column in heat.x)
    assert tuple(heat.text[0]) == ("1.0%<br>0.5 times", "2.0%<br>1 times", "50.0%<br>25 times")
    assert heat.z[0] == pytest.approx((-1, 0, math.log2(25)))
    assert heat.zmin == -heat.zmax == pytest.approx(-math.log2(25))
    middle = [colour for place, colour in heat.colorscale if place == 0.5]
    assert middle == ["#ffffff"]
    marks = dict(zip(heat.colorbar.tickvals, heat.colorbar.ticktext, strict=True))
    assert marks[0] == "1 (indifferent)"
    assert (marks[2], marks[-2]) == ("4", "1/4")
    for words in ("K = 5", "41.2", "30.0%", "2.0%"):
        assert words in figure.layout.title.text
    assert figure.layout.yaxis.autorange == "reversed"


def test_heat_map_of_another_encoder():
    """No special tokens, a share of nothing, a field without tokens, many layers."""
    attention = make_attention(layers=24, special=False)
    attention["layers"][0]["by_field"]["user id"] = {"share": 0.0, "indifferent": 0.02}
    attention["layers"][1]["by_field"]["movie title"] = {"share": 0.0, "indifferent": 0.0}
    attention["layers"][2]["by_field"]["movie title"] = None
    attention["layers"][3]["by_field"]["user id"]["indifferent"] = 0.04
    figure = prompt_plots.plot_prompt_attention(attention, "Attention")
    (heat,) = figure.data
    assert len(heat.x) == 2
    assert heat.x[0].endswith("indifferent: 2.0% to 4.0%")
    assert heat.z[0][0] == pytest.approx(math.log2(1e-3))
    assert heat.z[1][1] is None
    assert heat.text[2][1] == ""
    assert not any("<br>" in text for row in heat.text for text in row)
    assert figure.layout.height > 900
    json.loads(figure.to_json())


def test_bars_hold_the_three_ways():
    figure = prompt_plots.plot_prompt_effect(prompt_effect(FINETUNED), "Effect")
    first, second = figure.data
    assert first.x == ("on", "off", "of another row")
    assert first.text == ("0.8100", "0.7000", "undefined")
    assert [first.base + height for height in first.y] == pytest.approx([0.81, 0.7, 0.5])
    assert figure.layout.yaxis.title.text == "axis starts at 0.5"
    assert second.base == 0
    assert second.y == pytest.approx((0.4, 0.6, 0.5))
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles == ["AUC (higher is better)", "LogLoss (lower is better)"]


def test_curves_hold_the_norms():
    entries = [
        {"step": 1, "epoch": 1, "ctr": 0.5, "prompts": 0.1, "total": 0.6},
        {"step": 9, "epoch": 1, "ctr": 0.4, "total": 0.4},
        {"step": 10, "epoch": 2, "ctr": 0.3, "prompts": None, "total": 0.3},
    ]
    figure = prompt_plots.plot_gradient_norms(entries, "Gradients", clip_norm=0.45)
    curves = {trace.name: (trace.x, trace.y) for trace in figure.data}
    assert curves == {
        "CTR model": ((1, 9, 10), (0.5, 0.4, 0.3)),
        "prompt generator": ((1,), (0.1,)),
        "all together": ((1, 9, 10), (0.6, 0.4, 0.3)),
        "limit of all together (0.45)": ((1, 10), (0.45, 0.45)),
    }
    (end,) = figure.layout.shapes
    assert (end.x0, end.x1) == (9.5, 9.5)
    assert tuple(figure.layout.yaxis.tickvals) == pytest.approx((0.1, 0.2, 0.5, 1, 2, 5))
    wide = prompt_plots.plot_gradient_norms([entries[0] | {"ctr": 2e-5}], "Gradients")
    assert tuple(wide.layout.yaxis.tickvals) == pytest.approx((1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1))
    free = prompt_plots.plot_gradient_norms(entries[:2], "Gradients")
    assert not free.layout.shapes
    assert not any("limit" in trace.name for trace in free.data)


@pytest.mark.parametrize(
    ("plot", "nothing", "words"),
    [
        (prompt_plots.plot_prompt_attention, None, "training.diagnostic_rows is null"),
        (prompt_plots.plot_prompt_effect, {}, "training.diagnostic_rows is null"),
        (prompt_plots.plot_gradient_norms, [], "No step was measured"),
    ],
)
def test_a_figure_without_content_says_why(plot, nothing, words):
    figure = plot(nothing, "Title")
    assert len(figure.data) == 0
    (note,) = figure.layout.annotations
    assert words in note.text


@pytest.mark.parametrize("width", [80, 120])
def test_table_says_what_the_prompts_do(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(prompts_table([prompt_summary(PRETRAINED), prompt_summary(FINETUNED)]))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for number in ("1.5000", "2.5000", "2.0000", "0.8100", "undefined", "0.4000"):
        assert number in text
    words = " ".join(text.split())
    assert "Pretraining: attention on the prompts by layer 25%, 50%; indifferent 2%" in words
    assert "ClickPrompt with PLM: attention on the prompts by layer 25%, 50%" in words


def test_table_of_stages_that_were_not_looked_at_has_no_caption():
    summary = prompt_summary(PRETRAINED | {"diagnostics": None})
    assert prompts_table([summary]).caption is None
