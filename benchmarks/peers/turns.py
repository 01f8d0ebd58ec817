"""Processes that train and predict when asked, so that libraries can take turns.

A process stays alive with its data and models: turns then last seconds, and whatever else the
machine does meets all libraries alike. Requests and answers are lines of JSON. The standard library
only, since the environments of all libraries import it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Side(Protocol):
    """What a library does in its process; models are built when first asked for."""

    def parameters(self, model: str, precision: str) -> dict[str, int]:
        """Parameters of the model: ``table`` (embeddings of the fields) and ``rest``."""

    def train(self, model: str, precision: str, rows: int) -> float:
        """Train on so many train rows, shuffled, in batches; the seconds of the library's loop."""

    def predict(self, model: str, precision: str) -> tuple[int, float]:
        """Predict valid and test; the number of rows and the seconds."""

    def versions(self) -> dict[str, str]:
        """Packages that decide the speed."""


def serve(make: Callable[[], Side]) -> None:
    """Answer the requests on standard input until it ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        side = make()
        for line in sys.stdin:
            json.dump(_answer(side, json.loads(line)), answers)
            answers.write("\n")
            answers.flush()


def _answer(side: Side, request: dict[str, Any]) -> dict[str, Any]:
    do = request.pop("do")
    if do == "parameters":
        return side.parameters(**request)
    if do == "train":
        return {"rows": request["rows"], "seconds": side.train(**request)}
    if do == "predict":
        rows, seconds = side.predict(**request)
        return {"rows": rows, "seconds": seconds}
    assert do == "versions", do
    return side.versions()


class Worker:
    """The other end: a started process that answers.

    Args:
        command: program and arguments; it calls :func:`serve`.
        folder: working folder.
        environment: variables on top of those of this process.
        log: file that gets what the process prints.
    """

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._command = command
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: the process ended; the message has what it printed last.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise RuntimeError(
                f"{' '.join(self._command)} must answer, but ended with code {code}\n"
                + self._log.read_text(encoding="utf-8")[-2000:]
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process: its input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
