"""Nodes of bundles and scoring."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clickprompt.modality import ModelInput
from clickprompt.parameters import DataParameters, ScoreParameters
from clickprompt.training.result import TrainedModel


def make_bundle(
    trained: TrainedModel, model_input: ModelInput, data: DataParameters
) -> Callable[[Path], Any]:
    """What writes the bundle to a folder."""
    from clickprompt.serving import write_bundle

    return partial(write_bundle, trained=trained, model_input=model_input, data=data)


def score_rows(
    score: ScoreParameters, backbone: Path, without_plm: Path, with_plm: Path
) -> dict[str, Any]:
    """Score the file: the report of what was scored."""
    from clickprompt.serving.batch import score_file

    bundles = {
        "backbone": backbone,
        "clickprompt_without_plm": without_plm,
        "clickprompt_with_plm": with_plm,
    }
    return score_file(score, bundles)


def show_score(report: dict[str, Any]) -> None:
    """Print the report to the terminal."""
    from rich.console import Console

    from clickprompt.serving.batch import health_table

    Console().print(health_table(report))
