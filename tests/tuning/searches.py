"""A search whose training costs nothing: its valid AUC follows from the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from clickprompt.nested import merged, nested
from clickprompt.training.listener import tell_epochs
from clickprompt.training.result import TrainedModel
from clickprompt.tuning import TunedStudy, tune
from tests.docs.test_readme import configuration

RATE, DECAY = "backbone.learning_rate_ctr", "backbone.weight_decay"
EPOCHS = 3


@cache
def conf_parameters(environment: str) -> dict[str, Any]:
    """Merged and not yet checked; not to be written into."""
    return configuration(environment)["parameters"]


def raw_parameters(folder: Path, **changes: Any) -> dict[str, Any]:
    """Parameters of conf with the study in ``folder``; ``changes`` has groups with dicts."""
    places = {"tuning": {"folder": str(folder / "studies"), "random_trials": 4}}
    return merged(conf_parameters("base"), merged(places, changes))


def score(values: Mapping[str, Any], epoch: int = EPOCHS) -> float:
    """Best at a rate of 1e-2, whatever the rest; each epoch adds a little."""
    return 0.8 - 0.05 * abs(math.log10(values[RATE]) + 2) + 0.01 * epoch


def trained(values: Mapping[str, Any], stage: str = "backbone") -> TrainedModel:
    """A stage of three epochs that tells the listener as the training loop does."""
    history = [
        {"epoch": epoch, "valid_auc": score(values, epoch)} for epoch in range(1, EPOCHS + 1)
    ]
    for epoch in range(1, EPOCHS):
        tell_epochs(stage, history[:epoch])
    report = {"history": history, "metrics": {"valid_auc": history[-1]["valid_auc"]}}
    return TrainedModel(stage=stage, digest=str(nested(values)), folder="", report=report)


def search(folder: Path, trials: int, **changes: Any) -> TunedStudy:
    """Tune the backbone on the fake training; ``train``, ``digest`` and ``name`` may be given."""
    train, digest = changes.pop("train", trained), changes.pop("digest", "d")
    name = changes.pop("name", "study")
    return tune(
        name=name,
        stage="backbone",
        raw=raw_parameters(folder, **changes),
        prepare=lambda: digest,
        train=train,
        trials=trials,
    )


def drawn(tuned: TunedStudy) -> list[dict[str, Any]]:
    """Values of the finished trials, in order."""
    return [
        trial.user_attrs["values"]
        for trial in tuned.study.trials
        if trial.state.name in ("COMPLETE", "PRUNED")
    ]
