"""``kedro run`` of the models that ClickPrompt is compared with, each by one parameter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from clickprompt.evaluation.tables import MODEL_NAMES
from clickprompt.parameters import ModelParameters
from tests.end_to_end.project import make_project, run

pytestmark = pytest.mark.slow

MODELS = get_args(ModelParameters.model_fields["name"].annotation)
QUICK = {"epochs": 1, "batch_size": 64}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    model = {name: QUICK for name in ("ctr_bert", "p5", "text_features")} | {
        "ptab": {"pretrain": QUICK, "finetune": QUICK},
        "ctrl": {"align": QUICK, "finetune": QUICK},
    }
    model["p5"] = QUICK | {"answers": ["movie", "genre"], "size": 32, "layers": 1}
    return make_project(tmp_path_factory.mktemp("project"), ratings=600, model=model)


@pytest.mark.parametrize("name", MODELS)
def test_a_baseline_is_one_command(project, name):
    result = run(project, "--pipelines=baseline", f"--params=model.name={name}")
    assert result.exit_code == 0, result.output
    for shown in (MODEL_NAMES[name], MODEL_NAMES["backbone"]):
        assert shown in result.output
    rows = json.loads((project / "data/08_reporting/baseline_results.json").read_text())
    assert [row["model"] for row in rows] == ["backbone", name]
    figure = json.loads((project / "data/08_reporting/baseline_curves.json").read_text())
    assert MODEL_NAMES[name] in figure["layout"]["title"]["text"]
    again = run(project, "--pipelines=baseline", f"--params=model.name={name}")
    assert "up to date: baseline.train_baseline" in again.output


def test_distillation_is_one_command(project):
    result = run(project, "--pipelines=distillation")
    assert result.exit_code == 0, result.output
    rows = json.loads((project / "data/08_reporting/distillation_results.json").read_text())
    assert [row["model"] for row in rows] == [
        "backbone",
        "clickprompt_without_plm",
        "clickprompt_with_plm",
        "clickprompt_distilled",
    ]


def test_a_wrong_name_is_told_with_the_right_ones(project):
    result = run(project, "--pipelines=baseline", "--params=model.name=ctrbert")
    assert result.exit_code != 0
    said = f"{result.output}{result.exception}"
    for part in ("model.name", "'ctr_bert'", "'ctrbert'"):
        assert part in said
