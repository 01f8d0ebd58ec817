"""Train cells of a study: a Kedro session each, one after another or several at once.

A cell that fails is noted and passed over, an interrupted one goes on from its checkpoint. Of cells
that start from the same stage, the first trains it: the others find it by its digest, and none of
them runs beside it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.runner import AbstractRunner

from clickprompt.nested import merged
from clickprompt.progress import ManyProgress, Standing, clock, progress_told_to
from clickprompt.running import RunInterruptedError, RunningPart, inside, quiet, running_part
from clickprompt.studies.cells import Cell, cell_axes, cell_tags
from clickprompt.studies.models import MODELS
from clickprompt.studies.plan import Estimates
from clickprompt.studies.records import Records

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Job:
    """What a process must know to train one cell.

    Attributes:
        project: the project's folder.
        study: name of the study.
        env: environment; None is Kedro's default.
        params: runtime parameters of the call, nested.
        make_runner: see `ProjectStudy`.
        cell: what is trained.
        digest: of the cell, with its data.
        folder: of the records.
        model_input: folder of the cell's arrays; None: the environment's.
        tracked: whether it has a run.
        threads: CPU threads; None: torch's choice.
        processes: cells at once.
        config: what of conf is the same in all cells, read.
    """

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


def train_cells(jobs: Sequence[Job], records: Records, found: int) -> None:
    """Train what is left of a study; each job's record is written when it has ended.

    Args:
        jobs: of different cells of one study.
        records: of all studies.
        found: cells of this study that need no training, for the log.

    Raises:
        RunInterruptedError: the user stopped it.
    """
    if jobs:
        _Loop(jobs, records).run(found)


class _Loop:
    """The loop over the cells of one call; there is at least one."""

    def __init__(self, jobs: Sequence[Job], records: Records) -> None:
        self._study = jobs[0].study
        self._project = jobs[0].project
        self._records = records
        self._left = list(jobs)
        self._count = len(jobs)
        self._done: list[Job] = []
        self._running: dict[str, tuple[Job, float]] = {}  # digest -> when it began
        self._estimates = Estimates(records.all())
        self._processes = min(jobs[0].processes, len(jobs))
        self._progress = ManyProgress(
            f"study {self._study}",
            total=self._count,
            every_seconds=SECONDS_BETWEEN_LINES * self._processes,
        )

    def run(self, found: int) -> None:
        """Train them all."""
        logger.info(
            "study %s: %d cells to train, %d found or shared", self._study, self._count, found
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
            with quiet(SAME_IN_EVERY_CELL), progress_told_to(show):
                error = _train(job)
            self._note(job, error)

    def _run_in_processes(self) -> None:
        context = multiprocessing.get_context("spawn")
        while self._left:
            running: dict[Future[str | None], Job] = {}
            standings: Queue[tuple[str, Standing]] = context.Queue()
            pool = ProcessPoolExecutor(
                self._processes,
                context,
                initializer=_start_worker,
                initargs=(self._project, standings),
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
                raise RunInterruptedError(f"interrupted in study {self._study}") from None

    def _show(self, standings: Queue[tuple[str, Standing]]) -> None:
        """What the processes have told since the last look; cells that have ended are left out."""
        running = {job.cell.name for job, _ in self._running.values()}
        with suppress(queue.Empty):
            while True:
                name, standing = standings.get_nowait()
                if name in running:
                    self._progress.show(name, standing)

    def _submit(self, pool: ProcessPoolExecutor, running: dict[Future[str | None], Job]) -> None:
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

    def _begin(self, number: int) -> Job:
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

    def _note(self, job: Job, error: str | None) -> None:
        """Say how a cell ended and what is left."""
        del self._running[job.digest]
        self._done.append(job)
        record = None
        if error is None:
            record = self._records.find(job.digest)
            assert record is not None, "it was written before its training returned"
            self._estimates.add(record)
        left = self._seconds_left()
        self._progress.end(job.cell.name, done=len(self._done), seconds_left=left)
        where = f"cell {len(self._done)} of {self._count}, {job.cell.name}"
        if record is None:
            logger.error("%s failed: %s", where, error)
            self._records.save_failure(job.digest, job.cell.name, str(error))
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


def _train_in_process(job: Job) -> str | None:
    """Train one cell beside others; the first process shows how it stands."""
    standings = _standings
    assert standings is not None, "set before the first cell"
    with progress_told_to(lambda standing: standings.put((job.cell.name, standing))):
        return _train(job)


def _train(job: Job) -> str | None:
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
            with (session := session_of(job.project, job.env, job.params, changes)):
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


def session_of(
    project: Path, env: str | None, params: Mapping[str, Any], changes: Mapping[str, Any]
) -> KedroSession:
    """A session with the call's runtime parameters and a part's own changes to them."""
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
