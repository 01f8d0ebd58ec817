"""How quickly ``kedro --help`` and ``kedro registry list`` start, against a bare Kedro project.

The bare project is what ``kedro new`` makes without tools and example; both projects see the same
installed plugins. Runs alternate, so that a busy machine slows both; the median counts. The
limit of the project is 1.5 times the bare project.

    python -m benchmarks.startup
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = (("--help",), ("registry", "list"))
ENVIRONMENT = os.environ | {"KEDRO_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true"}


def run(repeats: int = 7) -> dict[str, Any]:
    """Median seconds of both projects and their ratio, for each command."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        _kedro(Path(folder), "new", "--name=bare", "--tools=none", "--example=n")
        projects = {"project": PROJECT, "bare": Path(folder) / "bare"}
        for command in COMMANDS:
            seconds: dict[str, list[float]] = {name: [] for name in projects}
            for repeat in range(repeats + 1):
                for name, path in projects.items():
                    start = time.perf_counter()
                    _kedro(path, *command)
                    if repeat:  # the first one fills the caches
                        seconds[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            results["kedro " + " ".join(command)] = {
                "project_seconds": round(medians["project"], 3),
                "bare_seconds": round(medians["bare"], 3),
                "ratio": round(medians["project"] / medians["bare"], 3),
            }
    return results


def _kedro(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
