"""Table and page of a study."""

from __future__ import annotations

import json
import math
import re

import pytest
from rich.console import Console

from clickprompt.training.divergence import DivergedError
from clickprompt.tuning import trials_table, write_page
from clickprompt.tuning.report import _figures
from clickprompt.tuning.space import Dimension, short_names
from tests.tuning.searches import RATE, search, trained


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Trained, pruned, diverged and failed trials; a choice among the parameters."""
    calls: list[float] = []

    def train(values):
        calls.append(values[RATE])
        if len(calls) == 4:
            raise DivergedError("nan")
        if len(calls) == 5:
            raise ValueError("a rule")
        return trained(values)

    space = {"backbone": {"ctr.hidden_sizes": {"choices": [[8], [16, 8]]}}}
    settings = {"space": space, "prune_from_trial": 2}
    return search(tmp_path_factory.mktemp("tuned"), 12, train=train, tuning=settings)


def printed(table, width=160):
    console = Console(width=width, record=True)
    console.print(table)
    return console.export_text()


def test_the_table_is_in_the_order_of_the_valid_metric(tuned):
    text = printed(trials_table(tuned, rows=20))
    rows = re.findall(r"^ +(\d+) +(0\.\d{4}|–) +(\d) .*(trained|pruned|diverged)", text, re.M)
    assert len(rows) == 12
    scores = [float(row[1]) for row in rows if row[3] == "trained"]
    assert scores == sorted(scores, reverse=True)
    assert rows[0][0] == str(tuned.best.number)
    assert rows[-1][1:] == ("–", "0", "diverged")
    ends = [row[3] for row in rows]
    assert ends == ["trained"] * ends.count("trained") + ["pruned"] * ends.count("pruned") + [
        "diverged"
    ]
    assert ends.count("pruned") >= 1
    assert f"best valid AUC {tuned.best.value:.4f} in trial {tuned.best.number} of 12" in text
    assert "[16, 8]" in text


def test_the_table_is_short(tuned):
    text = printed(trials_table(tuned, rows=3))
    assert len(re.findall(r"(trained|pruned|diverged)", text)) == 3
    assert "the best 3 of 12" in text


def test_every_parameter_is_seen_in_a_narrow_terminal(tuned, tmp_path):
    """Four parameters share a column; three have their own."""
    text = " ".join(printed(trials_table(tuned, rows=1), width=80).split())
    for name in ("learning_rate_ctr", "weight_decay", "dropout", "hidden_sizes"):
        assert re.search(rf"{name} [\d\[]", text), text
    text = printed(trials_table(search(tmp_path, 1)), width=80)
    assert [line for line in text.splitlines() if line.split()[-3:] == ["ctr", "decay", "dropout"]]
    assert "…" not in text


def test_the_page_needs_no_network_and_holds_all_trials(tuned, tmp_path):
    path = write_page(tuned, tmp_path / "pages")
    assert path == tmp_path / "pages" / "study.html"
    text = path.read_text()
    assert text.count("plotly.js v") == 1
    assert not re.search(r"<script[^>]+src=", text)
    for title in ("Valid AUC by trial", "Valid AUC by epoch", "Parameters of each trial",
                  "Valid AUC by parameter", "Share of each parameter"):  # fmt: skip
        assert json.dumps(title)[1:-1] in text
    for name, value in tuned.best_values.items():
        assert f"{name}: {value}" in text
    # on the logarithmic axis of the parallel coordinates
    assert str(math.log10(tuned.best_values[RATE]))[:12] in text


def test_trials_and_epochs_are_counted_in_whole_numbers(tuned):
    history, epochs, *_ = _figures(tuned)
    for figure in (history, epochs):
        step = figure.layout.xaxis.dtick
        assert step >= 1
        assert step == int(step)


def test_a_study_of_one_trial_has_a_page(tmp_path):
    text = write_page(search(tmp_path, 1), tmp_path).read_text()
    assert "Valid AUC by trial" in text
    assert "Share of each parameter" not in text


def test_short_names_are_unique():
    names = ["backbone.weight_decay", "pretrain.weight_decay", "ctr.dropout"]
    assert short_names(tuple(Dimension(name, "float") for name in names)) == {
        "backbone.weight_decay": "backbone.weight_decay",
        "pretrain.weight_decay": "pretrain.weight_decay",
        "ctr.dropout": "dropout",
    }
