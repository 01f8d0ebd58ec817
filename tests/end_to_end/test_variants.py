"""Ablations and ``fidelity: reference``, each by one or two parameters of ``kedro run``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.project import make_project, run

pytestmark = pytest.mark.slow

VARIANTS = {
    "prompts.layout=none": "without prompts",
    "pretrain.epochs=0": "without pretraining",
    "prompts.layout=none,pretrain.epochs=0": "without prompts and pretraining",
    "fidelity=reference": "full",
    "prompts.layout=hidden_state": "full",
    "prompts.layout=input_only,prompts.bottleneck=null,fidelity=reference": "full",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"), ratings=600)


@pytest.mark.parametrize("parameters", VARIANTS)
def test_a_variant_is_one_command(project, parameters):
    result = run(project, f"--params={parameters}")
    assert result.exit_code == 0, result.output
    assert "ClickPrompt with PLM" in result.output
    reports = {
        name: json.loads((project / f"data/06_models/{name}.json").read_text())["report"]
        for name in ("pretrained", "clickprompt_without_plm", "clickprompt_with_plm")
    }
    assert {report["variant"] for report in reports.values()} == {VARIANTS[parameters]}
    stage = reports["clickprompt_with_plm"]["parameters"]["stage"]
    reference = "fidelity=reference" in parameters
    assert stage["fusion"] == ("sum" if reference else "alpha")
    assert stage["pool_prompts"] == (reference and "input_only" in parameters)
    rows = reports["pretrained"]["parameters"]["stage"]["rows"]
    assert rows == ("train_and_valid" if reference else "train")
    figure = json.loads((project / "data/08_reporting/pretraining_curves.json").read_text())
    assert figure["data"]
