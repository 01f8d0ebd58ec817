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

import mlflow
import numpy as np
import pandas as pd

from benchmarks.project import REPOSITORY
from benchmarks.serving import Server
from clickprompt.serving import Scorer
from clickprompt.serving.onnx import OnnxModel, export_onnx

# Bundle -> the name that a run registers it under.
MODELS = {
    "clickprompt_without_plm": "clickprompt_without_plm",
    "clickprompt_with_plm": "clickprompt",
}
ROWS_A_REQUEST = 500
ONNX_ROWS = 10_000


def run() -> dict[str, Any]:
    """Compare all.

    Returns:
        ``served`` and ``onnx``: by model, rows and the largest difference; served also packages of
        the environment, and whether kedro is one of them.
    """
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    served, onnx = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in MODELS:
            onnx[name] = _onnx(name, _raw_rows("test", "valid")[:ONNX_ROWS], folder)
        for name in MODELS:
            served[name] = _served(name, _raw_rows("test"), folder)
    return {"served": served, "onnx": onnx}


def _served(name: str, rows: pd.DataFrame, folder: Path) -> dict[str, Any]:
    given, scored = folder / "rows.parquet", folder / f"{name}.parquet"
    rows.to_parquet(given, index=False)
    subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipeline=score",
         f"--params=score.input={given},score.output={scored},score.model={name}"],
        cwd=REPOSITORY, check=True, capture_output=True,
    )  # fmt: skip
    work = folder / f"{name}-server"
    work.mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{REPOSITORY / 'mlflow.db'}")
    uri = f"models:/{MODELS[name]}/latest"
    model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(work)))
    python = _environment(model, folder / f"{name}-environment")
    records = json.loads(rows.to_json(orient="records"))
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
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    packages = {package["name"] for package in json.loads(listed.stdout)}
    return {
        "rows": len(served),
        "largest_difference": float(np.abs(served - offline).max()),
        "packages": len(packages),
        "kedro_is_installed": "kedro" in packages,
    }


def _onnx(name: str, rows: pd.DataFrame, folder: Path) -> dict[str, Any]:
    bundle = REPOSITORY / "data/06_models/bundles" / name
    scorer = Scorer(bundle)
    exported = OnnxModel(export_onnx(bundle, folder / f"{name}.onnx"))
    expected, found = [], []
    for start in range(0, len(rows), ROWS_A_REQUEST):
        converted = scorer.converter.convert(rows[start : start + ROWS_A_REQUEST])
        expected.append(scorer.logits(converted))
        found.append(exported.logits_of(converted))
    return {
        "rows": len(rows),
        "largest_difference": float(np.abs(np.concatenate(found) - np.concatenate(expected)).max()),
        "deviation_of_logits": round(float(np.concatenate(expected).std()), 3),
    }


def _raw_rows(*splits: str) -> pd.DataFrame:
    """Rows of some splits as the interactions table has them, without what is no field."""
    interactions = pd.read_parquet(REPOSITORY / "data/02_intermediate/interactions.parquet")
    predictions = pd.read_parquet(
        REPOSITORY / "data/07_model_output/clickprompt_without_plm_predictions.parquet"
    ).set_index("split")
    rows = interactions.set_index("row").loc[predictions.loc[[*splits], "row"]]
    return rows.drop(columns=["rating", "timestamp"]).reset_index(drop=True)


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
