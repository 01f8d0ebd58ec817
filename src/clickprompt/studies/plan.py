"""What of a study is done, what is left, and how long that may take."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clickprompt.files import value_digest
from clickprompt.parameters import StudiesParameters, StudyParameters
from clickprompt.progress import clock
from clickprompt.studies.cells import Cell, StudyError, expand, near, only
from clickprompt.studies.records import CellRecord, Records

if TYPE_CHECKING:
    from rich.table import Table

FINISHED, FAILED, LEFT = "finished", "failed", "to do"


@dataclass(frozen=True)
class PlannedCell:
    """A cell and how it stands.

    Attributes:
        cell: it.
        digest: None: its data have never been made here.
        record: of a finished one.
        failure: why it failed when it was last tried.
    """

    cell: Cell
    digest: str | None
    record: CellRecord | None
    failure: str | None

    @property
    def state(self) -> str:
        """``finished``, ``failed`` (it will be tried again) or ``to do``."""
        if self.record is not None:
            return FINISHED
        return LEFT if self.failure is None else FAILED


def plan(cells: Sequence[Cell], records: Records) -> list[PlannedCell]:
    """Look every cell up."""
    planned = []
    for cell in cells:
        data = records.data_digest(cell.data)
        digest = None if data is None else cell.digest(data)
        planned.append(_look_up(cell, digest, records))
    return planned


def _look_up(cell: Cell, digest: str | None, records: Records) -> PlannedCell:
    record = None if digest is None else records.find(digest)
    failure = None if digest is None or record else records.failure(digest)
    return PlannedCell(cell, digest, record, failure["error"] if failure else None)


def planned_study(
    raw: Mapping[str, Any],
    records: Records,
    name: str,
    seeds: Sequence[int] | None = None,
    filters: Sequence[str] = (),
) -> tuple[StudyParameters, list[PlannedCell]]:
    """A declared study and its cells, looked up; nothing is made.

    Args:
        raw: merged ``conf`` parameters, not yet checked.
        records: of all studies.
        name: of the study.
        seeds: instead of those that the study declares.
        filters: see :func:`~clickprompt.studies.cells.only`.

    Raises:
        StudyError: there is no such study, a cell of it cannot be used, or filters leave none.
    """
    studies = StudiesParameters.model_validate(raw.get("studies", {}))
    declared = studies.grids.get(name)
    if declared is None:
        known = [key for key, study in studies.grids.items() if study is not None]
        raise StudyError(
            f"the study must be one of {', '.join(known)}, got {name!r}{near(name, known)}"
        )
    cells = only(expand(name, declared, raw, seeds), declared, filters)
    return declared, plan(cells, records)


def save_plan(
    name: str, declared: StudyParameters, planned: Sequence[PlannedCell], records: Records
) -> None:
    """Keep a study and its cells for the report, which cannot know what they were made from."""
    cells = [{**asdict(entry.cell), "digest": entry.digest} for entry in planned]
    records.save_plan(name, {"study": declared.model_dump(mode="json"), "cells": cells})


def saved_plan(name: str, records: Records) -> tuple[StudyParameters, list[PlannedCell]]:
    """A study as it was last asked for, its cells looked up anew.

    Raises:
        StudyError: it never was.
    """
    kept = records.plan(name)
    if kept is None:
        raise StudyError(
            f"studies.report must name a study that was run, got {name!r}: run kedro study {name}"
        )
    planned = []
    for entry in kept["cells"]:
        digest = entry.pop("digest")
        planned.append(_look_up(Cell(**entry), digest, records))
    return StudyParameters.model_validate(kept["study"]), planned


def different(planned: Iterable[PlannedCell]) -> list[PlannedCell]:
    """Each training once: cells whose axes change nothing that decides their weights share one."""
    seen: dict[str, PlannedCell] = {}
    for entry in planned:
        cell = entry.cell
        key = value_digest([cell.model, cell.seed, cell.data, dict(cell.parameters)])
        seen.setdefault(key, entry)
    return list(seen.values())


class Estimates:
    """Seconds of a training, from earlier ones: of the same parameters, else of the same model.

    Args:
        records: of cells that were trained.
    """

    def __init__(self, records: Iterable[CellRecord]) -> None:
        self._alike: dict[tuple[Any, ...], list[CellRecord]] = defaultdict(list)
        for record in records:
            self.add(record)

    def add(self, record: CellRecord) -> None:
        """One more."""
        parameters = value_digest(record.parameters)
        for likeness in _likenesses(record.model, parameters, record.parameters):
            self._alike[likeness].append(record)

    def seconds(self, cells: Sequence[Cell], trained: Iterable[Cell] = ()) -> float | None:
        """Of all cells one after another, a shared stage once; None: nothing is known of one.

        Args:
            cells: that are left.
            trained: others, whose stages need not be trained again.
        """
        begun = {cell.begins_with for cell in trained}
        total = 0.0
        for cell in cells:
            likenesses = _likenesses(cell.model, cell.parameters_digest, cell.parameters)
            alike = next((self._alike[key] for key in likenesses if key in self._alike), None)
            if alike is None:
                return None
            total += statistics.fmean(record.stages[-1]["seconds"] for record in alike)
            begin = cell.begins_with
            if begin is not None and begin not in begun:
                begun.add(begin)
                total += statistics.fmean(r.seconds - r.stages[-1]["seconds"] for r in alike)
        return total


def _likenesses(
    model: str, digest: str, parameters: Mapping[str, Any]
) -> Iterator[tuple[Any, ...]]:
    """What trainings may have in common, from the same parameters to the same model alone."""
    yield model, "parameters", digest
    yield model, "layers", parameters.get("plm", {}).get("keep_layers")
    yield (model,)


def plan_table(name: str, planned: Sequence[PlannedCell], estimates: Estimates) -> Table:
    """Cells with state and estimated time, for ``rich.print``."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"Study {name}: {count_line(planned)}", box=box.SIMPLE_HEAD)
    for axis in planned[0].cell.labels:
        table.add_column(axis, overflow="fold")
    for heading in ("seed", "state", "time", "test AUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in planned:
        record = entry.record
        seconds = record.seconds if record else estimates.seconds([entry.cell])
        about = "" if record else "~"
        auc = record.metrics.get("test_auc") if record else None
        table.add_row(
            *entry.cell.labels.values(),
            str(entry.cell.seed),
            entry.state,
            "?" if seconds is None else f"{about}{clock(seconds)}",
            "" if auc is None else f"{auc:.4f}",
        )
    return table


def count_line(planned: Sequence[PlannedCell]) -> str:
    """``42 cells, 12 finished, 1 failed``."""
    states = [entry.state for entry in planned]
    parts = [f"{len(states)} cell{'s' if len(states) != 1 else ''}"]
    parts += [f"{states.count(s)} {s}" for s in (FINISHED, FAILED) if states.count(s)]
    return ", ".join(parts)


def left_line(planned: Sequence[PlannedCell], estimates: Estimates, processes: int) -> str:
    """How long the cells that are left may take."""
    left = [entry.cell for entry in different(planned) if entry.state != FINISHED]
    if not left:
        return "nothing is left to train"
    seconds = estimates.seconds(left)
    trained = f"{len(left)} to train"
    if seconds is None:
        return f"{trained}, for how long is not known before one of each model was trained"
    at_once = f", {processes} at a time" if processes > 1 else ""
    return f"{trained}, about {clock(seconds / processes)}{at_once}"
