"""Do all ways of scoring give the same answers as torch in the training environment?

Served: for each model that the last ``kedro run`` logged, a new virtual environment with the
requirements that MLflow keeps with it, ``mlflow models serve`` in it, and all test rows of the
embedded data sent as raw rows. The answers are compared with the file that
``kedro run --pipeline=score`` writes of the same rows. ONNX: logits of 10,000 valid and test rows
by onnxruntime and by torch. It takes some minutes, most of them pip's.

    python -m benchmarks serving_agreement
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from benchmarks.project import REPOSITORY
from benchmarks.serving import Server
from clickprompt.modality import ModelInput, TextBatcher
from clickprompt.serving import Bundle
from clickprompt.serving.onnx import OnnxModel, export_onnx
from clickprompt.training.objectives import TOKEN_MULTIPLE

MODELS = ("clickprompt_without_plm", "clickprompt_with_plm")
ROWS_A_REQUEST = 500
ONNX_ROWS = 10_000


def run() -> dict[str, Any]:
    """Compare all.

    Returns:
        ``served`` and ``onnx``: by model, rows and the largest difference; served also packages of
        the environment, and whether kedro is one of them.
    """
    served, onnx = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            onnx[name] = _onnx(name, Path(folder))
        rows = _test_rows(Path(folder) / "rows.parquet")
        for name in MODELS:
            served[name] = _served(name, rows, Path(folder))
    return {"served": served, "onnx": onnx}


def _served(name: str, rows: Path, folder: Path) -> dict[str, Any]:
    model = _logged(name)
    scored = folder / f"{name}.parquet"
    subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipeline=score",
         f"--params=score.input={rows},score.output={scored},score.model={name}"],
        cwd=REPOSITORY, check=True, capture_output=True,
    )  # fmt: skip
    python = _environment(model, folder / f"{name}-environment")
    raw = pd.read_parquet(rows)
    raw = raw[[column for column in raw if column in _columns(model)]]
    records = json.loads(raw.to_json(orient="records"))
    work = folder / f"{name}-server"
    work.mkdir()
    server = Server(model, work, threads=os.cpu_count() or 1, python=python)
    try:
        answers = [
            answer
            for start in range(0, len(records), ROWS_A_REQUEST)
            for answer in server.score(records[start : start + ROWS_A_REQUEST])
        ]
    finally:
        server.stop()
    served = np.array([answer["probability"] for answer in answers], dtype=float)
    offline = pd.read_parquet(scored)["probability"].to_numpy()
    packages = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return {
        "rows": len(served),
        "largest_difference": float(np.abs(served - offline).max()),
        "packages": len(json.loads(packages.stdout)),
        "kedro_is_installed": "kedro" in {p["name"] for p in json.loads(packages.stdout)},
    }


def _onnx(name: str, folder: Path) -> dict[str, Any]:
    bundle = REPOSITORY / "data/06_models/bundles" / name
    exported = OnnxModel(export_onnx(bundle, folder / f"{name}.onnx"))
    model = Bundle.open(bundle).build()
    model_input = ModelInput.open(REPOSITORY / "data/05_model_input/model_input")
    text = TextBatcher(model_input)
    numbers = np.arange(len(model_input.ids))
    rows = np.concatenate([numbers[model_input.rows(split)] for split in ("test", "valid")])
    rows = rows[:ONNX_ROWS]
    largest, logits = 0.0, []
    for start in range(0, len(rows), ROWS_A_REQUEST):
        chosen = rows[start : start + ROWS_A_REQUEST]
        given = [np.array(model_input.ids[chosen], dtype=np.int64)]
        torch_given, lengths = given, None
        if name.endswith("with_plm"):
            token_ids, lengths = text.tokens(chosen, TOKEN_MULTIPLE)
            given = [*given, token_ids]
            torch_given = [*given, np.arange(token_ids.shape[1]) < lengths[:, None]]
        with torch.inference_mode():
            expected = model(*map(torch.from_numpy, torch_given)).numpy()
        found = exported.logits(*given, *([] if lengths is None else [lengths]))
        largest = max(largest, float(np.abs(found - expected).max()))
        logits.append(expected)
    return {
        "rows": len(rows),
        "largest_difference": largest,
        "deviation_of_logits": round(float(np.concatenate(logits).std()), 3),
    }


def _test_rows(path: Path) -> Path:
    """The test rows as the interactions table has them, without their labels."""
    interactions = pd.read_parquet(REPOSITORY / "data/02_intermediate/interactions.parquet")
    predictions = pd.read_parquet(
        REPOSITORY / "data/07_model_output/clickprompt_without_plm_predictions.parquet"
    )
    test = predictions.loc[predictions["split"] == "test", "row"]
    if "row" in interactions:
        interactions = interactions.set_index("row")
    interactions.loc[test].drop(columns=["rating"]).to_parquet(path, index=False)
    return path


def _logged(name: str) -> Path:
    """Folder of the newest model that was logged under a name."""
    found = [
        path
        for path in (REPOSITORY / "mlartifacts" / "models").glob("*/artifacts/MLmodel")
        if (path.parent / "artifacts").is_dir() and f"path: artifacts/{name}\n" in path.read_text()
    ]
    if not found:
        raise SystemExit(f"mlartifacts must hold a model {name}, got none: run `kedro run` first")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def _columns(model: Path) -> set[str]:
    described = yaml.safe_load((model / "MLmodel").read_text())
    return {column["name"] for column in json.loads(described["signature"]["inputs"])}


def _environment(model: Path, folder: Path) -> str:
    """A new environment with what the model asks for, and nothing else."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", str(model / "requirements.txt")],
        check=True,
        capture_output=True,
    )
    return python
