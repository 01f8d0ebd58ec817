"""Latency, throughput and load of trained models in use.

    python -m benchmarks serving

It reads the bundles that ``kedro run`` has left in data/06_models/bundles. Everything that is
compared takes turns in one process. The load test starts ``mlflow models serve`` on loopback.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.project import REPOSITORY

BUNDLES = REPOSITORY / "data/06_models/bundles"
JSON = {"Content-Type": "application/json"}
PREPARED_ROWS = 262_144
PREPARED_BATCH = 8192
TEXT_ROWS = 1024
CLIENTS = 8

MALFORMED: Sequence[tuple[str | bytes, Mapping[str, str]]] = (
    ("", JSON),
    ("{", JSON),
    ("null", JSON),
    ("[]", JSON),
    ('"text"', JSON),
    ('{"rows": []}', JSON),
    ('{"dataframe_records": 3}', JSON),
    ('{"dataframe_split": {"columns": ["user_id"], "data": [[1, 2]]}}', JSON),
    ('{"dataframe_records": [{"no such column": 1}]}', JSON),
    (b"\xff\xfe\x00", JSON),
    ("user_id\n7\n", {"Content-Type": "application/x-none"}),
    ('{"dataframe_records": [{"user_id": "7"}]', JSON),
)


class Server:
    """``mlflow models serve`` on loopback, in a process of its own.

    Args:
        model: folder of the MLflow model.
        folder: where it works and writes its log.
        threads: of torch.
        python: of the environment that it runs in; None: this one.
    """

    def __init__(
        self, model: Path, folder: Path, *, threads: int = 1, python: str | None = None
    ) -> None:
        python = python or sys.executable
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = int(found.getsockname()[1])
        log = folder / "server.log"
        command = [python, "-m", "mlflow", "models", "serve", "-m", str(model)]
        command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(self.port)]
        self._log = log.open("w")
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ
            | {
                "PATH": f"{Path(python).parent}:{os.environ['PATH']}",  # where uvicorn is
                "MLFLOW_MODELS_WORKERS": "1",
                "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
                "OMP_NUM_THREADS": str(threads),
            },
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server must start, got {log.read_text()[-3000:]}")
            try:
                if self.ask("GET", "/ping")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)

    def ask(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: Mapping[str, str] = JSON,
    ) -> tuple[int, str]:
        """Status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def score(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The answers to some rows."""
        body = json.dumps({"dataframe_records": rows})
        status, answer = self.ask("POST", "/invocations", body)
        if status != 200:
            raise RuntimeError(f"the server must answer with status 200, got {status}: {answer}")
        found: list[dict[str, Any]] = json.loads(answer)["predictions"]
        return found

    def stop(self) -> None:
        """End the server and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._log.close()


def run(
    bundles: Path = BUNDLES,
    *,
    rounds: int = 21,
    seconds: float = 120.0,
    malformed: int = 1000,
    prepared_rows: int = PREPARED_ROWS,
) -> dict[str, Any]:
    """All measurements; the smaller sizes are for tests."""
    import torch

    from clickprompt.serving import Scorer

    if not (bundles / "clickprompt_with_plm").is_dir():
        sys.exit(f"benchmarks.serving needs the bundles of `kedro run`, got none in {bundles}")
    scorers = {
        name: Scorer(bundles / f"{'clickprompt_' * (name != 'backbone')}{name}")
        for name in ("backbone", "without_plm", "with_plm")
    }
    rows = known_rows(scorers["with_plm"], prepared_rows)
    return {
        "threads": torch.get_num_threads(),
        "ctr": scorers["backbone"].bundle.settings["parameters"]["ctr"],
        "without_plm": without_plm(scorers, rows, rounds),
        "single_row": single_row(bundles, scorers["without_plm"], rows, rounds),
        "with_plm": with_plm(scorers["with_plm"], rows, rounds),
        "raw_rows": raw_rows(scorers, rows, rounds),
        "load": load(bundles, scorers["with_plm"], rows, seconds, malformed),
    }


def known_rows(scorer: Any, count: int) -> pd.DataFrame:
    """Rows of values that the model knows, drawn at random."""
    generator = np.random.default_rng(0)
    columns = {}
    for vocabulary in scorer.bundle.vocabularies:
        known = [value for value in vocabulary.values if value is not None]
        known = known or [float(edge) for edge in vocabulary.edges] or [0.0]
        drawn = generator.integers(0, len(known), count)
        columns[vocabulary.field.column] = [known[number] for number in drawn]
    return pd.DataFrame(columns)


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round; the first is a warm-up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: found[1:] for name, found in seconds.items()}


def ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Median of the rounds' ratios, and their lowest and highest quarter."""
    ratios = [one / two for one, two in zip(first, second, strict=True)]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"median": round(middle, 4), "quarter": round(low, 4), "three_quarters": round(high, 4)}


def without_plm(scorers: Mapping[str, Any], rows: pd.DataFrame, rounds: int) -> dict[str, Any]:
    """Rows a second from prepared ids in batches, beside the backbone."""
    import torch

    from clickprompt.training.machine import has_bf16

    batch = min(PREPARED_BATCH, len(rows))
    result: dict[str, Any] = {"batch": batch}
    kinds = ["float32"] + ["bf16"] * has_bf16(torch.device("cpu"))
    for kind in kinds:
        calls = {}
        for name in ("backbone", "without_plm"):
            converted = scorers[name].converter.convert(rows)
            model = scorers[name].model
            if converted.bags:
                model.ctr.embedding.set_bags(converted.bags)
            ids = torch.from_numpy(converted.ids)
            calls[name] = _batches(model, ids, batch, kind)
        seconds = in_turns(calls, rounds)
        result[kind] = {
            **{
                f"{name}_rows_per_second": round(len(rows) / statistics.median(found))
                for name, found in seconds.items()
            },
            "ratio_of_seconds": ratio(seconds["without_plm"], seconds["backbone"]),
        }
    return result


def _batches(model: Any, ids: Any, batch: int, kind: str) -> Callable[[], None]:
    import torch

    def call() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, kind == "bf16"):
            for start in range(0, len(ids), batch):
                model(ids[start : start + batch])

    return call


def single_row(bundles: Path, scorer: Any, rows: pd.DataFrame, rounds: int) -> dict[str, Any]:
    """Milliseconds of one row: by onnxruntime from ids, and whole from the raw row by torch."""
    from clickprompt.serving.onnx import OnnxModel, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        names = {"backbone": "backbone", "without_plm": "clickprompt_without_plm"}
        models = {
            name: OnnxModel(export_onnx(bundles / stage, f"{folder}/{name}.onnx"), threads=1)
            for name, stage in names.items()
        }
    some = rows.head(50)
    ids = scorer.converter.convert(some).ids
    if scorer.bundle.bags:  # combinations of the graph are those of training
        for field, bag in scorer.bundle.bags.items():
            ids[:, field] %= len(bag)
    raw = some.to_dict("records")
    result: dict[str, Any] = {
        name: _single(name, models, ids, scorer, raw, rounds * 50)
        for name in ("backbone_onnx", "without_plm_onnx", "raw_row")
    }
    result["ratio_of_p50"] = round(
        result["without_plm_onnx"]["p50_ms"] / result["backbone_onnx"]["p50_ms"], 4
    )
    return result


def _single(
    name: str, models: Mapping[str, Any], ids: np.ndarray, scorer: Any, raw: Any, count: int
) -> dict[str, float]:
    found: list[float] = []
    model = models.get(name.removesuffix("_onnx"))
    for number in range(-20, count):  # the first ones warm up
        at = number % len(ids)
        start = time.perf_counter()
        if model is not None:
            model.logits(ids[at : at + 1])
        else:
            scorer.score([raw[at]])
        found.append(time.perf_counter() - start)
    return percentiles(found[20:])


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    values = np.quantile(seconds, [0.5, 0.95, 0.99]) * 1000
    return {
        name: round(float(value), 4)
        for name, value in zip(("p50_ms", "p95_ms", "p99_ms"), values, strict=True)
    }


def with_plm(scorer: Any, rows: pd.DataFrame, rounds: int) -> dict[str, Any]:
    """ClickPrompt with PLM beside the encoder alone, on the same tokens."""
    import torch

    from clickprompt.modality import TextBatcher

    some = rows.head(TEXT_ROWS)
    converted = scorer.converter.convert(some)
    order = np.argsort(converted.texts.lengths(), kind="stable")
    token_ids, lengths = TextBatcher(converted.texts).tokens(order, 8)
    x_id, tokens = torch.from_numpy(converted.ids[order]), torch.from_numpy(token_ids)
    mask = torch.from_numpy(np.arange(tokens.shape[1]) < lengths[:, None])
    model = scorer.model
    if converted.bags:
        model.ctr.embedding.set_bags(converted.bags)

    def quietly(call: Callable[[], Any]) -> Callable[[], None]:
        def inside() -> None:
            with torch.inference_mode():
                call()

        return inside

    calls = {
        "clickprompt": quietly(lambda: model(x_id, tokens, mask)),
        "encoder": quietly(lambda: model.encoder(tokens, mask)),
        "transformers": quietly(
            lambda: model.encoder.model(input_ids=tokens, attention_mask=mask.long())
        ),
    }
    seconds = in_turns(calls, max(rounds // 2, 3))
    return {
        "rows": len(some),
        "mean_tokens": round(float(lengths.mean()), 1),
        **{
            f"{name}_rows_per_second": round(len(some) / statistics.median(found), 1)
            for name, found in seconds.items()
        },
        "share_of_the_encoders_rate": ratio(seconds["encoder"], seconds["clickprompt"]),
    }


def raw_rows(scorers: Mapping[str, Any], rows: pd.DataFrame, rounds: int) -> dict[str, Any]:
    """Rows a second from a table of raw rows to probabilities."""
    counts = {"without_plm": min(len(rows), 65_536), "with_plm": min(len(rows), 2048)}
    result = {}
    for name, count in counts.items():
        some = rows.head(count)
        calls = {
            "whole": lambda n=name, s=some: scorers[n].score(s),
            "conversion": lambda n=name, s=some: scorers[n].converter.convert(s),
        }
        seconds = in_turns(calls, max(rounds // 4, 3))
        result[name] = {
            "rows": count,
            **{
                f"{part}_rows_per_second": round(count / statistics.median(found))
                for part, found in seconds.items()
            },
        }
    return result


def load(
    bundles: Path, scorer: Any, rows: pd.DataFrame, seconds: float, malformed: int
) -> dict[str, Any]:
    """Clients that ask one row after the other, then malformed requests, then right answers."""
    raw = [{str(k): v for k, v in row.items()} for row in rows.head(200).to_dict("records")]
    expected = scorer.score(raw).probability
    with tempfile.TemporaryDirectory() as folder:
        model = _saved(bundles / "clickprompt_with_plm", Path(folder))
        server = Server(model, Path(folder), threads=os.cpu_count() or 1)
        try:
            asked, errors, wrong, length = _clients(server, raw, expected, seconds)
            statuses = [
                server.ask("POST", "/invocations", *MALFORMED[number % len(MALFORMED)])[0]
                for number in range(malformed)
            ]
            after = [answer["probability"] for answer in server.score(raw)]
        finally:
            server.stop()
    return {
        "clients": CLIENTS,
        "seconds": round(length, 1),
        "requests": len(asked),
        "requests_per_second": round(len(asked) / length, 1),
        "errors": errors,
        "wrong_answers": wrong,
        **percentiles(asked),
        "malformed_requests": len(statuses),
        "malformed_refused": sum(400 <= status < 600 for status in statuses),
        "largest_difference_after": float(np.abs(np.array(after) - expected).max()),
    }


def _clients(
    server: Server, raw: Sequence[Any], expected: np.ndarray, seconds: float
) -> tuple[list[float], int, int, float]:
    """Seconds of each request, errors, answers that differ by more than 1e-6, seconds in all."""
    asked: list[float] = []
    errors, wrong = [0], [0]
    lock = threading.Lock()
    start = time.monotonic()

    def ask(first: int) -> None:
        number = first
        while time.monotonic() - start < seconds:
            at = number % len(raw)
            number += CLIENTS
            began = time.perf_counter()
            try:
                found = server.score([raw[at]])[0]["probability"]
            except (OSError, RuntimeError, http.client.HTTPException):
                with lock:
                    errors[0] += 1
                continue
            took = time.perf_counter() - began
            with lock:
                asked.append(took)
                wrong[0] += abs(found - expected[at]) > 1e-6

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return asked, errors[0], int(wrong[0]), time.monotonic() - start


def _saved(bundle: Path, folder: Path) -> Path:
    """The bundle as an MLflow model, in a tracking store of its own."""
    import mlflow

    from clickprompt.serving.mlflow_model import log_bundle

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        mlflow.create_experiment("serving", artifact_location=(folder / "store").as_uri())
        mlflow.set_experiment("serving")
        with mlflow.start_run():
            uri = log_bundle(bundle, name="model")
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / "model")))
    finally:
        mlflow.set_tracking_uri(before)
