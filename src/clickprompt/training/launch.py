"""Starts the processes that train a stage together, and speaks for them.

The processes are started by torch's elastic launcher, which starts all of them again when one ends
early: they then go on from the last checkpoint. A stage's function is the same in each of them;
the one that started them reads the finished stage from its folder.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec

import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from clickprompt.modality import ModelInput
from clickprompt.parameters import TrainingParameters
from clickprompt.training.listener import is_listening
from clickprompt.training.machine import choose_machine
from clickprompt.training.ranks import rank, world_size
from clickprompt.training.result import TrainedModel

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
SECONDS_TO_END = 5  # for processes that are asked to end, before they are killed
SECONDS_BEHIND = 3.0  # until a process ends that has no more to say than another
SECONDS_TO_MEET = 600  # for the machines of a group to find each other

P = ParamSpec("P")


class ProcessEndedError(ChildProcessError):
    """A process that trains was ended from outside, more often than it may be started again."""


class ProcessFailedError(RuntimeError):
    """A fault in a process that trains; the message is its traceback."""


class ProcessesNeededError(Exception):
    """A stage is not finished, and this process is not one of those that shall train it.

    Args:
        name: of the stage and of its state, the same on all machines.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} must be trained by processes that have been started")
        self.name = name


def in_processes(train: Callable[P, TrainedModel]) -> Callable[P, TrainedModel]:
    """Let a stage's function start ``training.processes`` on ``training.machines``.

    The function raises `ProcessesNeededError` where it would train; it is then called in each of
    the processes, and once more here for its result. Its arguments are keywords only.
    """

    @functools.wraps(train)
    def call(*args: P.args, **kwargs: P.kwargs) -> TrainedModel:
        try:
            return train(*args, **kwargs)
        except ProcessesNeededError as needed:
            name = needed.name
        start_processes(call, kwargs, name)
        return train(*args, **kwargs)

    return call


def check_processes(training: TrainingParameters) -> None:
    """Are there as many devices as processes? Asked before any work.

    Raises:
        ValueError: there are fewer GPUs, or the device cannot be shared out.
    """
    if training.processes * training.machines == 1:
        return
    if is_listening():
        raise ValueError(
            "training.processes and training.machines must be 1 in a search for hyperparameters, "
            f"got {training.processes} and {training.machines}"
        )
    device = choose_machine(training).device
    if device.type not in ("cpu", "cuda") or (training.device not in ("auto", "cpu", "cuda")):
        raise ValueError(
            f"training.device must be auto, cpu or cuda with several processes, got "
            f"{training.device!r}"
        )
    if device.type == "cuda" and training.processes > torch.cuda.device_count():
        raise ValueError(
            f"training.processes must be at most the number of GPUs, {torch.cuda.device_count()}, "
            f"got {training.processes}"
        )


@dataclass(frozen=True)
class _Call:
    """What a started process gets, pickled.

    Attributes:
        train: the stage's function.
        arguments: its keywords; the model input is opened again by its folder.
        model_input_digest: what is then found there.
        parent: id of the process that starts it.
        working_folder: of that process.
        errors: folder for the errors of this machine's processes.
        speaks: end of a pipe for the log lines of process 0.
        level: of the lines that are wanted.
        threads: CPU threads of each process.
    """

    train: Callable[..., TrainedModel]
    arguments: Mapping[str, Any]
    model_input_digest: str
    parent: int
    working_folder: str
    errors: str
    speaks: Connection
    level: int
    threads: int


def start_processes(
    train: Callable[..., TrainedModel], arguments: Mapping[str, Any], name: str
) -> None:
    """Call ``train`` in every process of the group, and wait for all of them.

    Args:
        train: a stage's function, decorated with `in_processes`.
        arguments: its keywords, ``model_input`` and ``training`` among them.
        name: the same on all machines, and another for every call.

    Raises:
        ProcessEndedError: a process was ended by a signal more than ``training.restarts`` times, or
            the machines did not find each other.
        ProcessFailedError: a fault in a process.
        Exception: an error that the stage raised itself, as if there were one process.
    """
    training: TrainingParameters = arguments["training"]
    model_input: ModelInput = arguments["model_input"]
    check_processes(training)
    count = training.processes * training.machines
    config = LaunchConfig(
        min_nodes=training.machines,
        max_nodes=training.machines,
        nproc_per_node=training.processes,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint=training.rendezvous or "127.0.0.1:0",
        rdzv_configs={
            "is_host": training.machine_rank == 0,
            "timeout": SECONDS_TO_MEET,
        },
        local_addr="127.0.0.1" if training.machines == 1 else None,
        max_restarts=training.restarts,
        start_method="spawn",
        shutdown_timeout=SECONDS_TO_END,
    )
    logger.info("starting %d processes on %d machine(s)", count, training.machines)
    # An environment's own number of threads stands for each process, as torchrun has it.
    given = training.threads or int(os.environ.get("OMP_NUM_THREADS", "0"))
    threads = given or max(1, torch.get_num_threads() // training.processes)
    stopped = None
    with tempfile.TemporaryDirectory(prefix="clickprompt-") as folder, _log_pipe() as speaks:
        errors = Path(folder, "errors")
        errors.mkdir()
        config.logs_specs = DefaultLogsSpecs(log_dir=folder)
        call = _Call(
            train=train,
            arguments={**arguments, "model_input": str(model_input.folder)},
            model_input_digest=model_input.digest,
            parent=os.getpid(),
            working_folder=os.getcwd(),
            errors=str(errors),
            speaks=speaks,
            level=logging.getLogger("clickprompt").getEffectiveLevel(),
            threads=threads,
        )
        try:
            with _quiet_launcher(), _signals_put_back(), _store_of_each_start():
                elastic_launch(config, _process)(call)
        except SignalException as error:
            stopped = error.sigval
        except ChildFailedError as failed:
            raise _own_error(errors) or _ended(failed, training) from None
        except RendezvousError as error:
            raise ProcessEndedError(
                f"{training.machines} machines must meet at training.rendezvous "
                f"{training.rendezvous} within {SECONDS_TO_MEET} s, got {error}"
            ) from None
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped is not None:
        signal.raise_signal(stopped)  # the end of this process, as it is without others
        raise ProcessEndedError(f"the processes of {name} were ended by {stopped.name}")


def _process(call: _Call) -> None:
    """What a started process does."""
    os.chdir(call.working_folder)
    threading.Thread(target=_end_with, args=(call.parent,), daemon=True).start()
    if any(Path(call.errors).iterdir()):
        # Another start would end as the one before: this stage has failed, and it is known why.
        raise SystemExit(1)
    _log_into(call)
    os.environ["OMP_NUM_THREADS"] = str(call.threads)
    torch.set_num_threads(call.threads)
    if attempt := int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        logger.warning(
            "a process ended early: all were started again (%s of %s)",
            attempt,
            call.arguments["training"].restarts,
        )
    try:
        model_input = ModelInput.open(call.arguments["model_input"], verify=False)
        if model_input.digest != call.model_input_digest:
            raise ValueError(
                f"{model_input.folder} must be the same for all processes, got another digest"
            )
        call.train(**{**call.arguments, "model_input": model_input})
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except Exception as error:
        lost_another = _lost_another(error)
        if not lost_another:
            _write_error(Path(call.errors), error)
        if lost_another or rank():
            # The first to end is named, and ends the others: process 0 may still write.
            time.sleep(SECONDS_BEHIND)
        raise


def _end_with(parent: int) -> None:
    """Leave no process behind, however the one that started it ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _lost_another(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


# --- errors ----------------------------------------------------------------------------


def _write_error(folder: Path, error: Exception) -> None:
    """Leave an error for the process that started this one; whole, or not at all."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    entry = {
        "module": type(error).__module__,
        "type": type(error).__qualname__,
        "message": str(error),
        "errno": getattr(error, "errno", None),
        "raised_by": "" if last is None else str(last.tb_frame.f_globals.get("__name__", "")),
        "process": rank(),
        "processes": world_size(),
        "traceback": "".join(traceback.format_exception(error)),
    }
    aside = folder.with_name(f"error.{rank()}")
    aside.write_text(json.dumps(entry), encoding="utf-8")
    aside.rename(folder / f"{time.time_ns():020d}_{rank()}.json")


def _own_error(folder: Path) -> Exception | None:
    """The first error that a process left, as one of this process."""
    first = min(folder.iterdir(), default=None)
    if first is None:
        return None
    entry = json.loads(first.read_text(encoding="utf-8"))
    kind = _users_error(entry)
    if kind is None:
        return ProcessFailedError(
            f"process {entry['process']} of {entry['processes']} failed:\n{entry['traceback']}"
        )
    error: Exception = kind(entry["message"])
    if isinstance(error, OSError):
        error.errno = entry["errno"]
    error.add_note(f"in process {entry['process']} of {entry['processes']}:\n{entry['traceback']}")
    return error


def _users_error(entry: Mapping[str, Any]) -> type[Exception] | None:
    """Class of an error that a user's input, files or disk caused; None: a fault.

    Of the classes from elsewhere some need more than a message.
    """
    if entry["module"] == "builtins":
        kind = getattr(builtins, entry["type"])
        plain = kind is ValueError or issubclass(kind, OSError)
    else:
        kind = getattr(importlib.import_module(entry["module"]), entry["type"], None)
        plain = entry["module"].startswith("clickprompt") and isinstance(kind, type)
    if not plain or (
        issubclass(kind, ValueError) and not entry["raised_by"].startswith("clickprompt")
    ):
        return None
    return kind


def _ended(failed: ChildFailedError, training: TrainingParameters) -> ProcessEndedError:
    """Names the process and how it ended."""
    number, failure = failed.get_first_failure()
    count = training.processes * training.machines
    how = "lost the connection to the others"
    if failure.exitcode < 0:
        how = f"was ended by {failure.signal_name()}"
        if failure.exitcode == -signal.SIGKILL:
            how += " (the system does that when memory runs out)"
    return ProcessEndedError(
        f"process {number} of {count} {how} after training.restarts {training.restarts}; the same "
        f"command goes on from the last checkpoint"
    )


# --- log lines -------------------------------------------------------------------------


class _PipeHandler(logging.Handler):
    """Log records as JSON lines; a line is written at once, so a killed process breaks one only."""

    def __init__(self, end: Connection) -> None:
        super().__init__()
        self._end = end

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = json.dumps([record.name, record.levelno, record.getMessage()])
            os.write(self._end.fileno(), line.encode() + b"\n")
        except Exception:
            self.handleError(record)


def _log_into(call: _Call) -> None:
    """Process 0 speaks through its parent, the others only of warnings."""
    root = logging.getLogger()
    if rank() == 0:
        root.addHandler(_PipeHandler(call.speaks))
        logging.getLogger("clickprompt").setLevel(call.level)
    else:
        logging.getLogger("clickprompt").setLevel(logging.ERROR)


@contextmanager
def _log_pipe() -> Iterator[Connection]:
    """The end of a pipe; what is written there as by `_PipeHandler` is logged here."""
    hears, speaks = multiprocessing.get_context("spawn").Pipe(duplex=False)

    def listen() -> None:
        with os.fdopen(os.dup(hears.fileno()), encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    name, level, message = json.loads(line)
                except ValueError:  # the rest of a line whose writer was killed
                    continue
                logging.getLogger(name).log(level, "%s", message)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield speaks
    finally:
        speaks.close()
        thread.join(timeout=SECONDS_TO_END)
        hears.close()


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """The launcher speaks of its own workings, and of failures at length."""
    prefixes = ("torch.distributed", "torch.multiprocessing")
    names = [name for name in logging.root.manager.loggerDict if name.startswith(prefixes)]
    loggers = [logging.getLogger(name) for name in (*names, "torchelastic-events-null")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@contextmanager
def _store_of_each_start() -> Iterator[None]:
    """The launcher's own store still holds the addresses of the processes before a restart."""
    name = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _signals_put_back() -> Iterator[None]:
    """The launcher takes over signals in the main thread, and does not give them back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
