"""Train a study's cells on a Kedro project: a session each, one after another or several at once.

A cell whose record exists is skipped, a failed one is noted and passed over, an interrupted one
goes on from its checkpoint. Of cells that start from the same stage, the first trains it: the
others find it by its digest, and none of them runs beside it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.framework.project import settings
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.runner import AbstractRunner

from clickprompt.nested import merged
from clickprompt.parameters import ProjectParameters, StudyParameters, check_parameters
from clickprompt.progress import ManyProgress, Standing, clock, progress_told_to
from clickprompt.running import RunInterruptedError, RunningPart, inside, running_part
from clickprompt.studies.cells import Cell, StudyError, cell_axes, cell_tags, data_key
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
    from multiprocessing.queues import Queue

    from rich.table import Table

logger = logging.getLogger(__name__)

REPORT_PIPELINE = "study_report"

# Logger -> the level from which it may speak inside a cell.
SAME_IN_EVERY_CELL = {
    "clickprompt.runner": logging.WARNING,  # what is up to date
    "kedro": logging.WARNING,  # datasets that are loaded, the run that is completed
    "kedro.io.data_catalog": logging.ERROR,  # datasets of the catalog are replaced
}
BESIDE_OTHERS = {"clickprompt": logging.WARNING}

_STOP = threading.Event()  # in a process for cells: the first process has told it to stop
_standings: Queue[tuple[str, Standing]] | None = None  # there: takes how its cells stand, by name
SECONDS_BETWEEN_LOOKS = 0.5  # of the first process, into that
SECONDS_BETWEEN_LINES = 20.0  # without a terminal


class Tracker(Protocol):
    """Who keeps a run of every cell; the shell's business."""

    def start(self, study: str) -> None:
        """Make the study's experiment, before several processes want it."""

    def log_found(self, study: str, cells: Sequence[tuple[Cell, CellRecord]]) -> None:
        """Make runs of cells that were trained for another study, or elsewhere."""

    def runs(self, study: str) -> Mapping[str, str]:
        """Digest of a cell -> address of its run, for the report."""


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


def run_study(request: ProjectStudy) -> StudyOutcome:
    """Train what is left of a study, then write its report.

    Raises:
        ParameterError, StudyError: see :func:`open_study`.
        RunInterruptedError: the user stopped it; the next call goes on.
        ValueError: training shall have several processes itself.
    """
    study = open_study(request)
    training = study.parameters.training
    if training.processes * training.machines > 1:
        raise ValueError(
            "training.processes and training.machines must be 1 for kedro study, got "
            f"{training.processes} and {training.machines}: --processes trains several cells at "
            "once"
        )
    if study.declared.train:
        _make_data(request, study)
        study = open_study(request)
    if request.tracker is not None:
        request.tracker.start(request.name)
    jobs = []
    if study.declared.train:
        jobs = _jobs(request, study)
    _Cells(request, study, jobs).run()
    planned = plan([entry.cell for entry in study.planned], study.records)
    if request.tracker is not None:
        found = [(e.cell, e.record) for e in different(planned) if e.record is not None]
        request.tracker.log_found(request.name, found)
    page = None
    if any(entry.record for entry in planned):
        # The report is on the whole study, whatever part of it was wanted now.
        _, whole = planned_study(study.raw, study.records, request.name)
        extra = [e for e in planned if e.cell.seed not in study.declared.seeds]
        save_plan(request.name, study.declared, [*whole, *extra], study.records)
        page = _report(request, study.parameters)
    trained = [e for e in planned if e.record and e.digest in {job.digest for job in jobs}]
    return StudyOutcome(planned, len(different(trained)), page)


@dataclass(frozen=True)
class _Job:
    """What a process must know to train one cell."""

    project: Path
    study: str
    env: str | None
    params: Mapping[str, Any]
    make_runner: Callable[..., AbstractRunner]
    cell: Cell
    digest: str
    folder: Path
    model_input: Path | None
    tracked: bool
    threads: int | None
    processes: int
    config: Mapping[str, Any]


def _jobs(request: ProjectStudy, study: OpenStudy) -> list[_Job]:
    """What is left of a study."""
    parameters = study.parameters
    own = data_key(parameters)
    processes = request.processes or parameters.studies.processes
    shared = max(1, (os.cpu_count() or 1) // processes) if processes > 1 else None
    config = _config(request)
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
            _Job(
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
                config=config | {"parameters": checked.model_dump()},
            )
        )
    return jobs


def _config(request: ProjectStudy) -> dict[str, Any]:
    """What of conf is the same in all cells, read once."""
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(request.project / settings.CONF_SOURCE),
        env=request.env,
        runtime_params=dict(request.params),
        **settings.CONFIG_LOADER_ARGS,
    )
    found = {}
    for kind in ("catalog", "credentials", "mlflow"):
        with suppress(MissingConfigException):
            found[kind] = loader[kind]
    return found


def _arrays(project: Path, parameters: ProjectParameters, key: str) -> Path:
    """Folder of the arrays of cells whose data are not the environment's."""
    return project / parameters.studies.folder / "arrays" / key[:16]


def _make_data(request: ProjectStudy, study: OpenStudy) -> None:
    """Convert what the cells are trained on, once for each kind of data; up to date: at once."""
    own = data_key(study.parameters)
    tail_share = study.parameters.evaluation.tail_share
    first = {entry.cell.data: entry.cell for entry in reversed(study.planned)}
    for key, cell in first.items():
        arrays = None if key == own else _arrays(request.project, study.parameters, key)
        part = RunningPart(
            request.name,
            f"{request.name} data",
            own_results=False,
            model_input=arrays,
            tracked=False,
        )
        changes = {} if key == own else cell.runtime_parameters
        with inside(part), _quiet(SAME_IN_EVERY_CELL):
            with (session := _session(request.project, request.env, request.params, changes)):
                made = session.run(
                    pipeline_names=["backbone"],
                    to_outputs=["model_input"],
                    runner=request.make_runner(wanted=("model_input",)),
                )
            model_input = made["model_input"].load()
        study.records.save_data(key, model_input, tail_share)


class _Cells:
    """The loop over the cells of one call."""

    def __init__(self, request: ProjectStudy, study: OpenStudy, jobs: Sequence[_Job]) -> None:
        self._request = request
        self._study = study
        self._left = list(jobs)
        self._count = len(jobs)
        self._done: list[_Job] = []
        self._running: dict[str, tuple[_Job, float]] = {}  # digest -> when it began
        self._estimates = Estimates(study.records.all())
        self._processes = min(jobs[0].processes, len(jobs)) if jobs else 1
        self._progress = ManyProgress(
            f"study {request.name}",
            total=self._count,
            every_seconds=SECONDS_BETWEEN_LINES * self._processes,
        )

    def run(self) -> None:
        """Train them all."""
        found = len(self._study.planned) - self._count
        if not self._left:
            return
        logger.info(
            "study %s: %d cells to train, %d found or shared",
            self._request.name,
            self._count,
            found,
        )
        with self._progress:
            if self._processes == 1:
                self._run_here()
            else:
                self._run_in_processes()

    def _run_here(self) -> None:
        while self._left:
            job = self._begin(0)
            show = partial(self._progress.show, job.cell.name)
            with _quiet(SAME_IN_EVERY_CELL), progress_told_to(show):
                error = _train(job)
            self._note(job, error)

    def _run_in_processes(self) -> None:
        context = multiprocessing.get_context("spawn")
        while self._left:
            running: dict[Future[str | None], _Job] = {}
            standings: Queue[tuple[str, Standing]] = context.Queue()
            pool = ProcessPoolExecutor(
                self._processes,
                context,
                initializer=_start_worker,
                initargs=(self._request.project, standings),
            )
            try:
                while running or self._left:
                    self._submit(pool, running)
                    finished, _ = wait(
                        running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED
                    )
                    for future in finished:
                        self._note(running.pop(future), _error_of(future))
                    self._show(standings)
                pool.shutdown()
            except BrokenProcessPool:  # it takes no more cells; those that it had have ended
                wait(running)
                for future, job in running.items():
                    self._note(job, _error_of(future))
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
                raise RunInterruptedError(f"interrupted in study {self._request.name}") from None

    def _show(self, standings: Queue[tuple[str, Standing]]) -> None:
        """What the processes have told since the last look; cells that have ended are left out."""
        running = {job.cell.name for job, _ in self._running.values()}
        with suppress(queue.Empty):
            while True:
                name, standing = standings.get_nowait()
                if name in running:
                    self._progress.show(name, standing)

    def _submit(self, pool: ProcessPoolExecutor, running: dict[Future[str | None], _Job]) -> None:
        """Fill the processes with cells that start from no stage that another one is training."""
        while len(running) < self._processes:
            busy = {job.cell.begins_with for job in running.values()} - {None}
            free = (n for n, job in enumerate(self._left) if job.cell.begins_with not in busy)
            number = next(free, None)
            if number is None:
                return
            # A pool that is broken raises: the cell is then still among those that are left.
            future = pool.submit(_train_in_process, self._left[number])
            running[future] = self._begin(number)

    def _begin(self, number: int) -> _Job:
        """Take one of those that are left."""
        job = self._left.pop(number)
        self._running[job.digest] = job, time.monotonic()
        return job

    def _seconds_left(self) -> float | None:
        """Until the last cell ends, as far as earlier ones tell."""
        running = list(self._running.values())
        cells = [job.cell for job, _ in running] + [job.cell for job in self._left]
        seconds = self._estimates.seconds(cells, [job.cell for job in self._done])
        if seconds is None:
            return None
        now = time.monotonic()
        passed = sum(now - began for _, began in running)
        return max(0.0, seconds - passed) / max(1, min(self._processes, len(cells)))

    def _note(self, job: _Job, error: str | None) -> None:
        """Say how a cell ended and what is left."""
        del self._running[job.digest]
        self._done.append(job)
        record = None
        if error is None:
            record = self._study.records.find(job.digest)
            assert record is not None, "it was written before its training returned"
            self._estimates.add(record)
        left = self._seconds_left()
        self._progress.end(job.cell.name, done=len(self._done), seconds_left=left)
        where = f"cell {len(self._done)} of {self._count}, {job.cell.name}"
        if record is None:
            logger.error("%s failed: %s", where, error)
            self._study.records.save_failure(job.digest, job.cell.name, str(error))
            return
        said = "" if left is None else f"; {clock(left)} left"
        auc = record.metrics.get("test_auc")
        shown = "" if auc is None else f"test AUC {auc:.4f}, "
        logger.info("%s: %s%s%s", where, shown, clock(record.seconds), said)


def _error_of(future: Future[str | None]) -> str | None:
    """Why a cell in a process failed; one process that is gone takes the others with it."""
    try:
        return future.result()
    except BrokenProcessPool:
        return "its process ended early: out of memory, or killed"


def _train_in_process(job: _Job) -> str | None:
    """Train one cell beside others; the first process shows how it stands."""
    standings = _standings
    assert standings is not None, "set before the first cell"
    with progress_told_to(lambda standing: standings.put((job.cell.name, standing))):
        return _train(job)


def _train(job: _Job) -> str | None:
    """Train one cell and write its record; returns why it failed.

    Raises:
        RunInterruptedError: the user stopped it.
    """
    cell, model = job.cell, MODELS[job.cell.model]
    part = RunningPart(
        study=job.study,
        name=cell.name,
        tags=cell_tags(job.study, cell, job.digest),
        parameters=cell_axes(cell),
        experiment=job.study,
        output=model.output,
        model_input=job.model_input,
        tracked=job.tracked,
        config=job.config,
    )
    changes = cell.runtime_parameters
    try:
        with inside(part):
            if _STOP.is_set():
                raise KeyboardInterrupt
            with (session := _session(job.project, job.env, job.params, changes)):
                made = session.run(
                    pipeline_names=[model.pipeline],
                    from_inputs=["model_input"],
                    to_outputs=[model.output],
                    runner=job.make_runner(wanted=(model.output,)),
                )
            trained = made[model.output].load()
        Records(job.folder).save(cell, job.digest, trained, job.processes)
    except RunInterruptedError:
        raise
    except KeyboardInterrupt:
        raise RunInterruptedError(f"interrupted in {cell.name}") from None
    except Exception as error:
        logger.debug("%s failed", cell.name, exc_info=error)
        return f"{type(error).__name__}: {error}"
    return None


def _report(request: ProjectStudy, parameters: ProjectParameters) -> Path:
    """Write the study's report."""
    if request.tracker is not None:
        runs = request.tracker.runs(request.name)
        Records(request.project / parameters.studies.folder).save_runs(request.name, runs)
    part = RunningPart(request.name, "report", own_results=False, tracked=False)
    changes = {"studies": {"report": request.name}}
    session = _session(request.project, request.env, request.params, changes)
    with inside(part), _quiet(SAME_IN_EVERY_CELL), session:
        session.run(pipeline_names=[REPORT_PIPELINE], runner=request.make_runner())
    return request.project / parameters.studies.report_folder / request.name / "report.html"


def _session(
    project: Path, env: str | None, params: Mapping[str, Any], changes: Mapping[str, Any]
) -> KedroSession:
    return KedroSession.create(
        project_path=project,
        env=env,
        runtime_params=merged(params, changes),
        save_on_close=False,
    )


def _start_worker(project: Path, standings: Queue[tuple[str, Standing]]) -> None:
    """In a process for cells: it stops with the first process, and as that one tells it."""
    global _standings
    _standings = standings
    standings.cancel_join_thread()  # a process that ends leaves untold what it had to tell
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the first process passes it on
    signal.signal(signal.SIGTERM, _interrupt)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    os.chdir(project)
    bootstrap_project(project)
    for name, level in (SAME_IN_EVERY_CELL | BESIDE_OTHERS).items():
        logging.getLogger(name).setLevel(level)


def _interrupt(_number: int, _frame: object) -> None:
    """Interrupts a cell; a process without one ends by itself, when the pool does."""
    _STOP.set()
    if running_part() is not None:
        raise KeyboardInterrupt


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextmanager
def _quiet(levels: Mapping[str, int]) -> Iterator[None]:
    """Leave out what is said alike in every cell."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
