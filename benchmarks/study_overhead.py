"""What a cell of a study costs beside its training: 200 quick cells on synthetic ratings.

A cell's overhead is the wall time of the whole call, its start and its report among it, less the
seconds of training that the records hold, divided by the cells. The limit of the project is 0.5 s.

    python -m benchmarks study_overhead
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.project import REPOSITORY

ENVIRONMENT = os.environ | {"KEDRO_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true"}
STUDY = "quick"


def run(cells: int = 200) -> dict[str, Any]:
    """Seconds a cell, and a second call that finds all of them."""
    from clickprompt.studies.records import Records

    with tempfile.TemporaryDirectory() as folder:
        project = _write_project(Path(folder), cells)
        first = _seconds(project)
        records = Records(project / "data/07_model_output/studies").all()
        again = _seconds(project)
    trained = sum(record.seconds for record in records)
    return {
        "cells": len(records),
        "seconds": round(first, 1),
        "training_seconds": round(trained, 1),
        "overhead_seconds_a_cell": round((first - trained) / len(records), 3),
        "second_call_seconds": round(again, 1),
    }


def _write_project(folder: Path, cells: int) -> Path:
    """The project's conf on synthetic ratings, with a study of backbones that differ in a rate."""
    from clickprompt.synthetic import write_synthetic_ratings

    ignored = shutil.ignore_patterns("local")
    shutil.copytree(REPOSITORY / "conf", folder / "conf", ignore=ignored)
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "src").mkdir()
    raw = folder / "data" / "01_raw" / "synthetic"
    write_synthetic_ratings(raw, users=60, movies=120, ratings=1500)
    rates = [round(1e-3 * (1 + n / cells), 8) for n in range(cells // 2)]
    study = {
        "question": "What does a cell cost?",
        "seeds": [0, 1],
        "compare_with": [{"backbone.learning_rate_ctr": rates[0]}],
        "axes": {"backbone.learning_rate_ctr": rates, "model": ["backbone"]},
    }
    parameters = {
        "ctr": {"embedding_size": 8, "hidden_sizes": [16], "cross_layers": 1},
        "backbone": {"epochs": 1, "batch_size": 256},
        "data": {"expected": {"labelled": None}},
        "training": {"device": "cpu", "precision": "float32"},
        "studies": {"settings": None, "grids": {STUDY: study}},
    }
    catalog = {
        "raw_files": {
            "type": "clickprompt.datasets.RawFilesDataset",
            "path": "data/01_raw/synthetic",
            "files": {"ratings.csv": None, "movies.csv": None},
            "published_at": "clickprompt.synthetic",
        }
    }
    local = folder / "conf" / "local"
    local.mkdir()
    (local / "parameters.yml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    (local / "catalog.yml").write_text(yaml.safe_dump(catalog))
    return folder


def _seconds(project: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "kedro", "study", STUDY],
        cwd=project,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return time.perf_counter() - start
