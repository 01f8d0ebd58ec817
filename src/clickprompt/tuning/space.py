"""The declared space: checked by the parameters' own rules before any work, then drawn from."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from clickprompt.nested import flat, merged, nested
from clickprompt.parameters import (
    CTR_SIZES,
    CTRParameters,
    DimensionParameters,
    ParameterError,
    ProjectParameters,
    Stage,
    check_parameters,
)

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class TunedStage:
    """A stage that can be tuned.

    Attributes:
        reads: groups of parameters that decide its weights and may be tuned; a dot at the end
            stands for all below.
        fixed: groups that decide its weights as well, and stay what they are.
    """

    reads: tuple[str, ...]
    fixed: tuple[str, ...]


_SHARED = ("seed", "training.precision", "training.device")
# Model and text length decide the arrays: with them trials would not see the same data.
_PRETRAINED = (
    "ctr.",
    *(f"plm.{name}" for name in ("dropout", "keep_layers", "freeze_layers", "lora.")),
    "prompts.",
    "pretrain.",
)
_FIXED_PLM = (
    *(f"plm.{name}" for name in ("source", "sha256", "max_tokens", "long_text", "attention")),
    "plm.position_offset",  # takes positions from the text
    "plm.lora",  # null
    "plm.gradient_checkpointing",  # learns the same
    *_SHARED,
)

TUNED_STAGES: dict[Stage, TunedStage] = {
    "backbone": TunedStage(reads=("ctr.", "backbone."), fixed=_SHARED),
    "finetune_without_plm": TunedStage(
        reads=(*_PRETRAINED, "finetune.without_plm."), fixed=_FIXED_PLM
    ),
    "finetune_with_plm": TunedStage(reads=(*_PRETRAINED, "finetune.with_plm."), fixed=_FIXED_PLM),
}


@dataclass(frozen=True)
class Dimension:
    """One tuned parameter.

    Attributes:
        name: dotted.
        kind: ``int`` and ``float`` are ranges, ``choice`` is one of ``choices``.
        low, high, step: of a range; ends are included.
        log: draw evenly in the logarithm.
        choices: JSON text or plain value -> value.
    """

    name: str
    kind: Literal["int", "float", "choice"]
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def draw(self, trial: optuna.Trial) -> Any:
        """The value that the sampler proposes."""
        if self.kind == "int":
            step = 1 if self.step is None else int(self.step)
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(self.name, low, high, step=step, log=self.log)
        if self.kind == "float":
            return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        # The storage holds plain values only: lists are drawn as their JSON text.
        labels = {_label(v): list(v) if isinstance(v, tuple) else v for v in self.choices}
        return labels[trial.suggest_categorical(self.name, list(labels))]

    def describe(self) -> str:
        """For messages and the study's record."""
        if self.kind == "choice":
            return f"one of {json.dumps(self.choices)}"
        parts = [f"{self.low!r} to {self.high!r}"]
        if self.log:
            parts.append("log")
        if self.step is not None:
            parts.append(f"step {self.step!r}")
        return ", ".join(parts)


Space = tuple[Dimension, ...]


def check_space(raw: Mapping[str, Any], stage: Stage) -> tuple[Space, dict[str, str]]:
    """The space of ``stage`` as the parameters declare it.

    Args:
        raw: merged ``conf`` parameters, not yet checked.
        stage: that is tuned.

    Returns:
        The dimensions in the order of conf, and those left out with the reason: sizes that the
        CTR model does not read.

    Raises:
        ParameterError: all mistakes at once: a name that is no parameter (with the nearest one),
            is not read by the stage, cannot have such a range, or whose ends or choices break the
            parameter's rules.
    """
    parameters = check_parameters(raw)
    declared = {
        name: dimension
        for name, dimension in getattr(parameters.tuning.space, stage).items()
        if dimension is not None
    }
    mistakes: list[str] = []
    space: list[Dimension] = []
    for name, dimension in declared.items():
        try:
            space.append(_dimension(name, dimension, stage))
        except ValueError as error:
            mistakes.append(f"{name}: {error}")
    left_out: dict[str, str] = {}
    if not mistakes:
        left_out = _unread(space, parameters.ctr)
        space = [dimension for dimension in space if dimension.name not in left_out]
        for dimension in space:
            mistakes += _broken_rules(dimension, raw)
    if not (space or mistakes):
        mistakes.append("must name a parameter at least, got none")
    if mistakes:
        lines = [f"tuning.space.{stage}: {mistake}" for mistake in mistakes]
        raise ParameterError("the space cannot be used:\n  " + "\n  ".join(lines))
    return tuple(space), left_out


def short_names(space: Space) -> dict[str, str]:
    """Last part of each dotted name; the whole of it where two end alike."""
    last = {dimension.name: dimension.name.rpartition(".")[2] for dimension in space}
    ends = list(last.values())
    return {name: end if ends.count(end) == 1 else name for name, end in last.items()}


def show_value(value: Any) -> str:
    """A value in a few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def fixed_parameters(parameters: ProjectParameters, stage: Stage, space: Space) -> dict[str, Any]:
    """What decides the stage's weights and is not tuned: dotted name -> value."""
    tuned = {dimension.name for dimension in space}
    groups = (*TUNED_STAGES[stage].reads, *TUNED_STAGES[stage].fixed)
    return {
        name: value
        for name, value in flat(parameters.model_dump(mode="json"))
        if name not in tuned and _within(name, groups)
    }


def _within(name: str, groups: Iterable[str]) -> bool:
    return any(name == group or (group[-1] == "." and name.startswith(group)) for group in groups)


def _dimension(name: str, declared: DimensionParameters, stage: Stage) -> Dimension:
    """Raises ValueError, without the name."""
    groups = TUNED_STAGES[stage].reads
    types_ = _leaf_types(name, groups)
    if not _within(name, groups):
        allowed = ", ".join(f"{group}*" if group[-1] == "." else group for group in groups)
        raise ValueError(f"must be of {allowed}, which {stage} may be tuned in")
    if declared.choices is not None:
        return Dimension(name, "choice", choices=declared.choices)
    assert declared.low is not None
    assert declared.high is not None
    if float not in types_ and int not in types_:
        raise ValueError("must have choices, since it is no number, got low and high")
    if float not in types_:
        for end in ("low", "high", "step"):
            value = getattr(declared, end)
            if value is not None and value != int(value):
                raise ValueError(f"{end} must be a whole number, got {value:g}")
    return Dimension(
        name=name,
        kind="float" if float in types_ else "int",
        low=declared.low,
        high=declared.high,
        step=declared.step,
        log=declared.log,
    )


def _leaf_types(name: str, groups: Iterable[str]) -> set[Any]:
    """Types of the parameter with this dotted name; ValueError if there is none."""
    known = dict(_leaves(ProjectParameters))
    if name in known:
        return known[name]
    possible = [leaf for leaf in known if _within(leaf, groups)]
    near = difflib.get_close_matches(name, possible, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"must be the dotted name of a parameter{hint}")


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[Any]]]:
    for name, field in model.model_fields.items():
        found = _types(field.annotation)
        inner = next((t for t in found if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is None:
            yield f"{prefix}{name}", found
        else:
            yield from _leaves(inner, f"{prefix}{name}.")


def _types(annotation: Any) -> set[Any]:
    """Members of a union, else the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set(typing.get_args(annotation))
    return {annotation}


def _unread(space: list[Dimension], ctr: CTRParameters) -> dict[str, str]:
    """Sizes that no CTR model in question reads, with the reason."""
    models = next((d.choices for d in space if d.name == "ctr.name"), (ctr.name,))
    read = {f"ctr.{size}" for model in models for size in CTR_SIZES.get(str(model), ())}
    return {
        dimension.name: f"{', '.join(map(str, models))} does not read it"
        for dimension in space
        if dimension.name.startswith("ctr.") and dimension.name not in read | {"ctr.name"}
    }


def _broken_rules(dimension: Dimension, raw: Mapping[str, Any]) -> Iterator[str]:
    """What the parameters' own rules say of both ends, or of each choice."""
    if dimension.kind == "choice":
        values = [("choice", value) for value in dimension.choices]
    else:
        cast = int if dimension.kind == "int" else float
        values = [("low", cast(dimension.low)), ("high", cast(dimension.high))]
    for end, value in values:
        try:
            check_parameters(merged(raw, nested({dimension.name: value})))
        except ParameterError as error:
            rules = [line.strip() for line in str(error).splitlines()[1:]]
            yield f"{dimension.name}: {end} {json.dumps(value)} breaks a rule: {'; '.join(rules)}"


def _label(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, tuple | list) else value
