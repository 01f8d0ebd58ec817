"""From a declared grid to its cells: each with its parameters, checked, and a digest over them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from clickprompt.files import file_digest, value_digest
from clickprompt.nested import at, merged, nested
from clickprompt.parameters import (
    ParameterError,
    ProjectParameters,
    StudyParameters,
    check_parameters,
)
from clickprompt.studies.models import MODELS
from clickprompt.training.result import METHOD_VERSION

# Keys of an axis value that are no parameters.
TRAINED, SEEDS = "model", "seeds"
# Axes that are named after a group of parameters choose by its name.
CHOSEN_BY_NAME = ("ctr", "plm")
# Of `plm`: what the arrays depend on.
TOKENISED_BY = ("source", "max_tokens", "long_text", "position_offset")

Labels = Mapping[str, str]


class StudyError(ValueError):
    """A study cannot be run as it is declared or asked for."""


@dataclass(frozen=True)
class Cell:
    """One trained model of a study.

    Attributes:
        labels: axis -> value, in the order of the axes.
        seed: of its training.
        model: key of :data:`MODELS`.
        changes: parameters that differ from conf, by dotted name, ``seed`` not among them.
        parameters: those that decide its weights, as JSON values by dotted name.
        data: digest over the parameters of its data (:func:`data_key`).
    """

    labels: Labels
    seed: int
    model: str
    changes: Mapping[str, Any] = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    data: str

    @property
    def name(self) -> str:
        """For people, and of its tracked run."""
        return f"{' '.join(self.labels.values())} seed {self.seed}"

    @property
    def runtime_parameters(self) -> dict[str, Any]:
        """What a session is given, nested."""
        return nested({**self.changes, **MODELS[self.model].sets, "seed": self.seed})

    def digest(self, data_digest: str) -> str:
        """sha256 over all that decides its weights; where it is trained is not part of it.

        Args:
            data_digest: of the arrays that its data parameters make.
        """
        return value_digest(
            {
                "method_version": METHOD_VERSION,
                "model": self.model,
                "seed": self.seed,
                "data": data_digest,
                "parameters": self.parameters,
            }
        )

    @cached_property
    def parameters_digest(self) -> str:
        """Names the parameters that decide its weights."""
        return value_digest(self.parameters)

    @cached_property
    def begins_with(self) -> str | None:
        """Names the stage that it starts from; cells with the same one share it."""
        names = MODELS[self.model].begins_with
        if not names:
            return None
        values = [_within(self.parameters, name) for name in names]
        return value_digest([names[-1], self.seed, self.data, values])


def expand(
    name: str,
    study: StudyParameters,
    raw: Mapping[str, Any],
    seeds: Sequence[int] | None = None,
) -> list[Cell]:
    """The cells of a study, seed by seed, so that a part of them is a whole for fewer seeds.

    Args:
        name: of the study, for messages.
        study: its declaration.
        raw: merged ``conf`` parameters, not yet checked.
        seeds: instead of those that it declares.

    Raises:
        StudyError: a cell's parameters cannot be used, or nothing says what a cell trains.
    """
    settings = (raw.get("studies") or {}).get("settings") or {}
    raw = {key: value for key, value in raw.items() if key != "studies"}
    combinations = [_cell(name, study, labels, raw, settings) for labels in _combinations(study)]
    wanted = seeds or study.seeds
    cells = []
    for seed in wanted:
        for cell, own in combinations:
            if own is None or seed in own or seed not in study.seeds:
                cells.append(_with_seed(cell, seed))
    return cells


def only(cells: Sequence[Cell], study: StudyParameters, filters: Sequence[str]) -> list[Cell]:
    """Cells that satisfy all filters.

    Args:
        cells: of the study.
        study: its declaration.
        filters: each ``axis=value`` or ``axis=value,value``.

    Raises:
        StudyError: an unknown axis or value, or no cell is left.
    """
    for given in filters:
        axis, equals, values = given.partition("=")
        if not equals or axis not in study.axes:
            raise StudyError(
                f"--only must be axis=value with an axis of {', '.join(study.axes)}, got {given!r}"
                f"{near(axis, study.axes)}"
            )
        known = study.values_of(axis)
        wanted = list(_split(values, known))
        for value in wanted:
            if value not in known:
                raise StudyError(
                    f"--only {axis} must be of {', '.join(known)}, got {value!r}"
                    f"{near(value, known)}"
                )
        cells = [cell for cell in cells if cell.labels[axis] in wanted]
    if not cells:
        raise StudyError(f"--only must leave a cell, got none for {' '.join(filters)}")
    return list(cells)


def _split(values: str, known: Sequence[str]) -> Iterator[str]:
    """Names between commas; a known name may hold commas itself."""
    parts = values.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        joined = (",".join(parts[:end]).strip() for end in ends)
        name = next((name for name in joined if name in known), parts[0].strip())
        parts = parts[name.count(",") + 1 :]
        yield name


def near(value: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """A hint at what was meant."""
    found = difflib.get_close_matches(value, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def data_key(parameters: ProjectParameters) -> str:
    """Digest over the parameters that decide the arrays of the two views."""
    plm = parameters.plm.model_dump(mode="json")
    return value_digest(
        {
            "data": parameters.data.model_dump(mode="json", exclude={"expected"}),
            "plm": {key: plm[key] for key in TOKENISED_BY},
        }
    )


def cell_tags(study: str, cell: Cell, digest: str) -> dict[str, str]:
    """Tags of a cell's tracked run."""
    return {"study": study, "cell": digest, "model": cell.model}


def cell_axes(cell: Cell) -> dict[str, dict[str, str]]:
    """Its place in the grid, as parameters of its tracked run: axes for the charts."""
    return {"axis": dict(cell.labels)}


def counterpart(labels: Labels, place: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the cell that this one is compared with."""
    return {axis: str(place.get(axis, value)) for axis, value in labels.items()}


def _combinations(study: StudyParameters) -> Iterator[Labels]:
    axes = {axis: study.values_of(axis) for axis in study.axes}
    for values in product(*axes.values()):
        labels = dict(zip(axes, values, strict=True))
        left_out = (
            all(labels[axis] in map(str, given) for axis, given in place.items())
            for place in study.leave_out
        )
        if not any(left_out):
            yield labels


def _cell(
    name: str,
    study: StudyParameters,
    labels: Labels,
    raw: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[Cell, list[int] | None]:
    """A cell without its seed, and the seeds that one of its values names."""
    changes = dict(study.shared)
    for axis, value in labels.items():
        changes |= _changes(study, axis, value)
    shown = f"study {name}, {' '.join(labels.values())}"
    seeds = changes.pop(SEEDS, None)
    model = changes.pop(TRAINED, None)
    if model not in MODELS:
        raise StudyError(
            f"{shown}: {TRAINED} must be one of {', '.join(MODELS)}, got {model!r}"
            f"{near(str(model), MODELS)}"
        )
    ctr = changes.get("ctr.name", raw.get("ctr", {}).get("name"))
    chosen = settings.get(model) or {}
    changes = (chosen.get(ctr) or chosen.get("any") or {}) | changes
    try:
        known = check_parameters(merged(raw, nested({**changes, **MODELS[model].sets})))
    except ParameterError as error:
        raise StudyError(f"{shown}: {error}") from None
    dump = known.model_dump(mode="json")
    dump["plm"]["weights"] = _local_weights(known.plm.source)
    reads = {read: at(dump, read) for read in MODELS[model].reads}
    return Cell(labels, -1, model, changes, reads, data_key(known)), seeds


def _changes(study: StudyParameters, axis: str, value: str) -> Mapping[str, Any]:
    """Parameters that a value of an axis stands for."""
    values = study.axes[axis]
    if isinstance(values, dict):
        return values[value] or {}
    plain = next(known for known in values if str(known) == value)
    name = f"{axis}.name" if axis in CHOSEN_BY_NAME else axis
    return {name: plain}


def _with_seed(cell: Cell, seed: int) -> Cell:
    return Cell(cell.labels, seed, cell.model, cell.changes, cell.parameters, cell.data)


def _local_weights(source: str) -> str | None:
    """sha256 of a local language model's weights: its folder's name says nothing of them."""
    path = Path(source) / "model.safetensors"
    return file_digest(path) if path.is_file() else None


def _within(parameters: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name below one of the keys, which are dotted names too."""
    key = next(key for key in parameters if name == key or name.startswith(f"{key}."))
    return parameters[key] if key == name else at(parameters[key], name[len(key) + 1 :])
