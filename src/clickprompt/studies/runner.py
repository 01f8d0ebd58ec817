"""``kedro study``: looks a study's cells up, makes their data, has them trained, and reports.

A cell whose record exists is skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.framework.project import pipelines, settings
from kedro.runner import AbstractRunner

from clickprompt.nested import merged
from clickprompt.parameters import ProjectParameters, StudyParameters, check_parameters
from clickprompt.progress import clock
from clickprompt.running import RunningPart, inside, quiet
from clickprompt.studies.cells import Cell, StudyError, data_key
from clickprompt.studies.jobs import SAME_IN_EVERY_CELL, Job, session_of, train_cells
from clickprompt.studies.models import MODELS
from clickprompt.studies.plan import (
    FAILED,
    FINISHED,
    Estimates,
    PlannedCell,
    different,
    plan,
    planned_study,
    save_plan,
)
from clickprompt.studies.records import CellRecord, Records

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

DATA_PIPELINE, REPORT_PIPELINE = "backbone", "study_report"
# Parameters with hundreds of entries, which only some pipelines read.
LARGE = ("model", "studies", "tuning")


class Tracker(Protocol):
    """Who keeps a run of every cell; the shell's business."""

    def start(self, study: str) -> None:
        """Make the study's experiment, before several processes want it."""

    def log_found(self, study: str, cells: Sequence[tuple[Cell, CellRecord]]) -> dict[str, str]:
        """Make runs of cells that were trained for another study, or elsewhere.

        Returns:
            Digest of a cell -> address of its run, of all cells, for the report.
        """


@dataclass(frozen=True)
class ProjectStudy:
    """What ``kedro study`` is asked for.

    Attributes:
        project: the project's folder; the working folder, too.
        name: of the study.
        make_runner: a runner that repeats nothing; gets the datasets that are ``wanted`` of it. A
            class or a function of a module: other processes import it.
        env: environment; None is Kedro's default.
        params: runtime parameters, nested.
        seeds: instead of those that the study declares.
        filters: ``axis=value``; other cells are left alone.
        processes: at once; None: ``studies.processes``.
        tracker: of the cells; None: they are not tracked.
    """

    project: Path
    name: str
    make_runner: Callable[..., AbstractRunner]
    env: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    filters: tuple[str, ...] = ()
    processes: int | None = None
    tracker: Tracker | None = None


@dataclass(frozen=True)
class OpenStudy:
    """A study of a project, its cells looked up.

    Attributes:
        name: of the study.
        declared: in conf.
        raw: merged conf parameters, not yet checked.
        parameters: of the environment.
        planned: the wanted cells.
        records: of all studies.
    """

    name: str
    declared: StudyParameters
    raw: Mapping[str, Any]
    parameters: ProjectParameters
    planned: list[PlannedCell]
    records: Records


@dataclass(frozen=True)
class StudyOutcome:
    """How a call of ``kedro study`` ended.

    Attributes:
        planned: the wanted cells, as they are now.
        trained: how many of them this call has trained.
        page: the report; None: no cell is finished.
    """

    planned: list[PlannedCell]
    trained: int
    page: Path | None

    @property
    def failed(self) -> list[PlannedCell]:
        """Cells without a record that were tried."""
        return [entry for entry in self.planned if entry.failure is not None]


def read_project(
    project: Path, env: str | None, params: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ProjectParameters]:
    """The merged parameters of a project as written, and checked.

    Raises:
        ParameterError: they cannot be used.
    """
    loader = OmegaConfigLoader(
        conf_source=str(project / settings.CONF_SOURCE),
        env=env,
        runtime_params=dict(params),
        **settings.CONFIG_LOADER_ARGS,
    )
    raw = loader["parameters"]
    return raw, check_parameters(raw)


def list_studies(project: Path, env: str | None, params: Mapping[str, Any]) -> Table:
    """Every study, how it stands and what is left, for ``rich.print``.

    Raises:
        ParameterError: parameters cannot be used; a study that cannot says so in its line.
    """
    from rich import box
    from rich.table import Table

    raw, parameters = read_project(project, env, params)
    records = Records(project / parameters.studies.folder)
    estimates = Estimates(records.all())
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("study")
    for heading in ("cells", "finished", "failed", "time left"):
        table.add_column(heading, justify="right")
    table.add_column("question")
    for name, study in parameters.studies.grids.items():
        if study is None:
            continue
        try:
            declared, cells = planned_study(raw, records, name)
        except StudyError as error:  # of another study's cells this one knows nothing
            table.add_row(name, *[""] * 4, f"cannot be used: {error}")
            continue
        entries = different(cells)
        states = [entry.state for entry in entries]
        left = [entry.cell for entry in entries if entry.state != FINISHED]
        seconds = estimates.seconds(left) if declared.train else 0.0
        table.add_row(
            name,
            str(len(entries)),
            str(states.count(FINISHED)),
            str(states.count(FAILED) or ""),
            "?" if seconds is None else clock(seconds) if left and declared.train else "",
            declared.question,
        )
    return table


def open_study(request: ProjectStudy) -> OpenStudy:
    """Check a study and look its cells up; nothing is made.

    Raises:
        ParameterError: parameters cannot be used.
        StudyError: there is no such study, a cell of it cannot be used, or filters leave none.
    """
    raw, parameters = read_project(request.project, request.env, request.params)
    records = Records(request.project / parameters.studies.folder)
    declared, planned = planned_study(raw, records, request.name, request.seeds, request.filters)
    return OpenStudy(request.name, declared, raw, parameters, planned, records)


def run_study(request: ProjectStudy, study: OpenStudy) -> StudyOutcome:
    """Train what is left of a study, then write its report.

    Args:
        request: what the user asks for.
        study: what :func:`open_study` gave for it.

    Raises:
        StudyError: see :func:`open_study`.
        RunInterruptedError: the user stopped it; the next call goes on.
        ValueError: training shall have several processes itself.
    """
    training = study.parameters.training
    if training.processes * training.machines > 1:
        raise ValueError(
            "training.processes and training.machines must be 1 for kedro study, got "
            f"{training.processes} and {training.machines}: --processes trains several cells at "
            "once"
        )
    config = _config(request)
    if study.declared.train:
        _make_data(request, study, config)
        study = replace(study, planned=plan([e.cell for e in study.planned], study.records))
    if request.tracker is not None:
        request.tracker.start(request.name)
    jobs = []
    if study.declared.train:
        jobs = _jobs(request, study, config)
    train_cells(jobs, study.records, len(study.planned) - len(jobs))
    planned = plan([entry.cell for entry in study.planned], study.records)
    if request.tracker is not None:
        found = [(e.cell, e.record) for e in different(planned) if e.record is not None]
        runs = request.tracker.log_found(request.name, found)
        study.records.save_runs(request.name, runs)
    page = None
    if any(entry.record for entry in planned):
        # The report is on the whole study, whatever part of it was wanted now.
        _, whole = planned_study(study.raw, study.records, request.name)
        extra = [e for e in planned if e.cell.seed not in study.declared.seeds]
        save_plan(request.name, study.declared, [*whole, *extra], study.records)
        page = _report(request, study, config)
    trained = [e for e in planned if e.record and e.digest in {job.digest for job in jobs}]
    return StudyOutcome(planned, len(different(trained)), page)


def _jobs(request: ProjectStudy, study: OpenStudy, config: Mapping[str, Any]) -> list[Job]:
    """What is left of a study."""
    parameters = study.parameters
    own = data_key(parameters)
    processes = request.processes or parameters.studies.processes
    shared = max(1, (os.cpu_count() or 1) // processes) if processes > 1 else None
    jobs = []
    for entry in different(study.planned):
        if entry.record is not None:
            continue
        assert entry.digest is not None, "data are made before the jobs"
        cell = entry.cell
        training: dict[str, Any] = {"test": True, "diagnostic_rows": None}
        threads = parameters.training.threads or shared
        if threads is not None:
            training["threads"] = threads
        checked = check_parameters(
            merged(merged(study.raw, cell.runtime_parameters), {"training": training})
        )
        jobs.append(
            Job(
                project=request.project,
                study=request.name,
                env=request.env,
                params=request.params,
                make_runner=request.make_runner,
                cell=cell,
                digest=entry.digest,
                folder=request.project / parameters.studies.folder,
                model_input=(
                    None if cell.data == own else _arrays(request.project, parameters, cell.data)
                ),
                tracked=request.tracker is not None,
                threads=threads,
                processes=processes,
                config=_part_config(config, checked, MODELS[cell.model].pipeline),
            )
        )
    return jobs


def _config(request: ProjectStudy) -> dict[str, Any]:
    """What of conf is the same in all sessions of a study, read once."""
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(request.project / settings.CONF_SOURCE),
        env=request.env,
        runtime_params=dict(request.params),
        **settings.CONFIG_LOADER_ARGS,
    )
    found: dict[str, Any] = {"credentials": {}}  # Kedro's own, where there is no such file
    for kind in ("catalog", "credentials", "mlflow"):
        with suppress(MissingConfigException):
            found[kind] = loader[kind]
    return found


def _part_config(
    config: Mapping[str, Any], parameters: ProjectParameters, pipeline: str
) -> dict[str, Any]:
    """What a session's loader gives. Kedro makes a dataset of each entry and each parameter, in
    every session: the catalog holds those that this pipeline names and the patterns, and large
    parameters are left out where it does not read them.

    Args:
        config: see `_config`.
        parameters: of this session.
        pipeline: registered name.
    """
    names = pipelines[pipeline].datasets()
    entries = {n: entry for n, entry in config["catalog"].items() if n in names or "{" in n}
    unread = {name for name in LARGE if f"params:{name}" not in names}
    return {**config, "parameters": parameters.model_dump(exclude=unread), "catalog": entries}


def _arrays(project: Path, parameters: ProjectParameters, key: str) -> Path:
    """Folder of the arrays of cells whose data are not the environment's."""
    return project / parameters.studies.folder / "arrays" / key[:16]


def _make_data(request: ProjectStudy, study: OpenStudy, config: Mapping[str, Any]) -> None:
    """Convert what the cells are trained on, once for each kind of data; up to date: at once."""
    own = data_key(study.parameters)
    tail_share = study.parameters.evaluation.tail_share
    first = {entry.cell.data: entry.cell for entry in reversed(study.planned)}
    for key, cell in first.items():
        arrays = None if key == own else _arrays(request.project, study.parameters, key)
        changes = {} if key == own else cell.runtime_parameters
        checked = check_parameters(merged(study.raw, changes))
        part = RunningPart(
            request.name,
            f"{request.name} data",
            own_results=False,
            model_input=arrays,
            tracked=False,
            config=_part_config(config, checked, DATA_PIPELINE),
        )
        with inside(part), quiet(SAME_IN_EVERY_CELL):
            with (session := session_of(request.project, request.env, request.params, changes)):
                made = session.run(
                    pipeline_names=[DATA_PIPELINE],
                    to_outputs=["model_input"],
                    runner=request.make_runner(wanted=("model_input",)),
                )
            model_input = made["model_input"].load()
        study.records.save_data(key, model_input, tail_share)


def _report(request: ProjectStudy, study: OpenStudy, config: Mapping[str, Any]) -> Path:
    """Write the study's report."""
    changes = {"studies": {"report": request.name}}
    checked = check_parameters(merged(study.raw, changes))
    part = RunningPart(
        request.name,
        "report",
        own_results=False,
        tracked=False,
        config=_part_config(config, checked, REPORT_PIPELINE),
    )
    session = session_of(request.project, request.env, request.params, changes)
    with inside(part), quiet(SAME_IN_EVERY_CELL), session:
        session.run(pipeline_names=[REPORT_PIPELINE], runner=request.make_runner())
    return request.project / checked.studies.report_folder / request.name / "report.html"
