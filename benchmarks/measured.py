"""Run a command and watch the memory of its process and of all that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SECONDS_BETWEEN_SAMPLES = 0.1


class CommandError(RuntimeError):
    """A measured command failed or was stopped; the message says why."""


@dataclass(frozen=True)
class Measured:
    """What a command printed as its last line, as JSON, and what it needed.

    - ``peak_memory_mb``: largest sum over its process and those that it started, MiB, by samples;
      memory that processes share counts once (PSS).
    """

    result: dict[str, Any]
    peak_memory_mb: int


def run_measured(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    limit_mb: float | None = None,
) -> Measured:
    """Run a command that prints JSON as the last line of its output.

    Args:
        command: program and arguments.
        folder: working folder.
        environment: variables on top of those of this process.
        limit_mb: the command is stopped when its processes hold more memory than that.

    Raises:
        CommandError: it failed, was stopped, or its last line is no JSON.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
        )
        watch = _Watch(process.pid, limit_mb)
        try:
            code = process.wait()
        finally:
            watch.stop()
        output.seek(0)
        errors.seek(0)
        lines = output.read().splitlines()
        last_words = errors.read()[-2000:]
    if watch.over_limit:
        raise CommandError(f"memory must stay below {limit_mb:.0f} MiB, got {watch.peak_mb:.0f}")
    if code:
        killed = " (killed, perhaps for want of memory)" if code == -9 else ""
        raise CommandError(f"{command[0]} must end with code 0, got {code}{killed}\n{last_words}")
    try:
        return Measured(json.loads(lines[-1]), round(watch.peak_mb))
    except (IndexError, ValueError):
        raise CommandError(f"the last line must be JSON, got {lines[-1:]}\n{last_words}") from None


def own_peak_mb() -> int:
    """Peak resident memory of this process, MiB; ``ru_maxrss`` would count that of its parent."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024)
    raise OSError("/proc/self/status must have a line VmHWM, got none")


class _Watch:
    """Samples the memory of a process tree in a thread until stopped."""

    def __init__(self, process_id: int, limit_mb: float | None) -> None:
        self.peak_mb = 0.0
        self.over_limit = False
        self._limit_mb = limit_mb
        self._root = psutil.Process(process_id)
        self._tree: list[psutil.Process] = [self._root]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        self._kill(self._tree[1:])  # what outlives the command, as servers do

    def _run(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_SAMPLES):
            try:
                self._tree = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak_mb = max(self.peak_mb, sum(map(_shared_out_mb, self._tree)))
            if self._limit_mb is not None and self.peak_mb > self._limit_mb:
                self.over_limit = True
                self._kill(self._tree)
                return

    @staticmethod
    def _kill(processes: list[psutil.Process]) -> None:
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def _shared_out_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
