"""What a cell may train: the pipeline that makes it, and the parameters that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_PRETRAINED = ("ctr", "plm", "prompts", "pretrain")


@dataclass(frozen=True)
class StudiedModel:
    """A model as cells train it.

    Attributes:
        pipeline: registered name.
        output: its dataset, a ``TrainedModel``.
        reads: parameters that decide its weights beside ``seed`` and the data; dotted names.
        begins_with: those of ``reads`` that decide the stage it starts from; cells of the same
            data and seed that agree in these share that stage. Empty: it stands alone.
        sets: parameters that choose it, by dotted name.
    """

    pipeline: str
    output: str
    reads: tuple[str, ...]
    begins_with: tuple[str, ...] = ()
    sets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def served_alone(self) -> bool:
        """Whether it reads no text when it serves."""
        return self.output in ("backbone", "clickprompt_without_plm", "clickprompt_distilled")


def _baseline(name: str, *reads: str, begins_with: tuple[str, ...] = ()) -> StudiedModel:
    return StudiedModel("baseline", "baseline", reads, begins_with, {"model.name": name})


MODELS: Mapping[str, StudiedModel] = {
    "backbone": StudiedModel("backbone", "backbone", ("ctr", "backbone")),
    "clickprompt_without_plm": StudiedModel(
        "finetune",
        "clickprompt_without_plm",
        (*_PRETRAINED, "finetune.without_plm"),
        _PRETRAINED,
    ),
    "clickprompt_with_plm": StudiedModel(
        "finetune", "clickprompt_with_plm", (*_PRETRAINED, "finetune.with_plm"), _PRETRAINED
    ),
    "clickprompt_distilled": StudiedModel(
        "distillation",
        "clickprompt_distilled",
        (*_PRETRAINED, "finetune.with_plm", "finetune.without_plm", "distillation"),
        _PRETRAINED,
    ),
    "longer_backbone": _baseline(
        "longer_backbone",
        "ctr",
        "backbone",
        "model.longer_backbone",
        "pretrain.epochs",
        "finetune.without_plm.epochs",
    ),
    "text_features": _baseline("text_features", "ctr", "plm", "model.text_features"),
    "ctr_bert": _baseline("ctr_bert", "ctr", "plm", "model.ctr_bert"),
    "p5": _baseline("p5", "plm", "model.p5"),
    "ptab": _baseline(
        "ptab", "ctr", "plm", "model.ptab", begins_with=("ctr", "plm", "model.ptab.pretrain")
    ),
    "ctrl": _baseline(
        "ctrl", "ctr", "plm", "model.ctrl", begins_with=("ctr", "plm", "model.ctrl.align")
    ),
}
