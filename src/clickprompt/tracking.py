"""What a run looks like in MLflow: names of parameters, metrics and tags, and where it is kept."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

# MLflow reads this when it is imported; the plugins' import may have come first.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A bar for the files of each logged model says nothing to the user.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import psutil
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH
from pydantic import BaseModel

from clickprompt.studies.cells import Cell, cell_axes, cell_tags
from clickprompt.studies.records import CellRecord

PROCESS_TAG = "process"
BATCH = 100  # MLflow's limit of parameters in one request

Metrics = Iterable[tuple[str, float, int]]


def log_metrics(client: mlflow.MlflowClient, run_id: str, metrics: Metrics) -> None:
    """Log names, values and steps in few requests."""
    now = mlflow.utils.time.get_current_time_millis()
    entries = [Metric(key, value, now, step) for key, value, step in metrics]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, metrics=entries[start : start + BATCH])


def log_parameters(
    client: mlflow.MlflowClient,
    run_id: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log parameters one by one, by dotted names, and tags, in few requests.

    What MLflow refuses as too long for a parameter becomes a tag.
    """
    flat: dict[str, str] = {}
    for name in sorted(parameters):
        flat |= dict(_flatten(name, parameters[name]))
    # The strategy "tag" of mlflow.yml: MLflow refuses longer values as parameters.
    long = {name: value for name, value in flat.items() if len(value) > MAX_PARAM_VAL_LENGTH}
    marks = [RunTag(name, value) for name, value in {**(tags or {}), **long}.items()]
    params = [Param(name, value) for name, value in flat.items() if name not in long]
    for start in range(0, max(len(params), 1), BATCH):
        client.log_batch(run_id, params=params[start : start + BATCH], tags=marks)
        marks = []


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names and texts of a parameter; lists stay whole, as JSON."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flatten(f"{name}.{key}", part)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def training_metrics(stage: str, report: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Curves by epoch, and the numbers of the weights that are kept."""
    yield from curves(stage, report["history"])
    drawn = {key for entry in report["history"] for key, _ in _numbers("", entry)}
    for key, value in _numbers("", report["metrics"]):
        yield f"{stage}/{f'best_{key}' if key in drawn else key}", value, report["best_epoch"]
    yield f"{stage}/best_epoch", report["best_epoch"], 0
    for entry in report.get("gradient_norms", ()):
        for part, norm in _numbers("", entry):
            if part not in ("step", "epoch"):
                yield f"{stage}/gradient_norm.{part}", norm, entry["step"]
    if diagnostics := report.get("diagnostics"):
        yield from _prompt_metrics(stage, diagnostics)


def _prompt_metrics(stage: str, diagnostics: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Share of the attention that the prompts get, by layer; metrics without them."""
    attention = diagnostics["attention"]
    for layer in attention["layers"]:
        yield f"{stage}/prompt_attention.layer_{layer['layer']}", layer["share"], 0
    yield f"{stage}/prompt_attention.indifferent", attention["indifferent"], 0
    for key, value in _numbers("", diagnostics.get("effect", {})):
        yield f"{stage}/{key}", value, 0


def curves(stage: str, history: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Numbers of each epoch."""
    for entry in history:
        for key, value in _numbers("", entry):
            if key != "epoch":
                yield f"{stage}/{key}", value, entry["epoch"]


def result_metrics(rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Test metrics of each row of the result table; MLflow shows a group for each metric."""
    for row in rows:
        for key in ("auc", "log_loss"):
            if row[key] is not None:
                yield f"test_{key}/{row['model']}", row[key], 0


def scoring_metrics(report: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Rows, and by column the shares of out-of-vocabulary and missing cells."""
    for key in ("rows", "not_scored", "seconds"):
        yield f"score/{key}", float(report[key]), 0
    for column, shares in report["fields"].items():
        for key in ("out_of_vocabulary", "missing", "drift"):
            # MLflow's names have no colon, which the column of a time's part has
            yield f"score/{key}.{column.replace(':', ' ')}", shares[key], 0


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Dotted names and values of the numbers inside ``value``."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def shared_metrics(metrics: Mapping[str, float | None], seconds: float) -> Metrics:
    """Metrics of valid and test under names that all models share, so that charts compare them.

    Args:
        metrics: of the trained model's report.
        seconds: of all of its stages.
    """
    for name, value in metrics.items():
        if name.startswith(("valid_", "test_")) and value is not None:
            yield name, float(value), 0
    yield "training_seconds", seconds, 0


def tracking_config(
    config: Mapping[str, Any], project: Path, experiment: str | None = None
) -> dict[str, Any]:
    """``mlflow.yml`` with the database in the project, and another experiment if one is named."""
    server, tracking = dict(config.get("server") or {}), dict(config.get("tracking") or {})
    server["mlflow_tracking_uri"] = in_project(server.get("mlflow_tracking_uri"), project)
    if experiment is not None:
        tracking["experiment"] = dict(tracking.get("experiment") or {}) | {"name": experiment}
    return dict(config) | {"server": server, "tracking": tracking}


def in_project(uri: str | None, project: Path) -> str | None:
    """A relative SQLite file is one of the project, not of the working folder."""
    prefix = "sqlite:///"
    if uri is None or not uri.startswith(prefix) or uri.startswith(prefix + "/"):
        return uri
    return f"{prefix}{project / uri.removeprefix(prefix)}"


def git_state(project: Path) -> dict[str, str]:
    """Commit and whether files differ from it; empty outside a repository or without git."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *command], cwd=project, capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_commit": commit, "git_dirty": str(bool(changes)).lower()}


def process_name(pid: int) -> str:
    """Machine, process id and start time: enough to know later whether it still runs."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def is_alive(process: str) -> bool:
    """Whether a process of `process_name` runs; one of another machine is taken to run."""
    host, pid, started = process.rsplit(maxsplit=2)
    if host != socket.gethostname():
        return True
    try:
        found = psutil.Process(int(pid)).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(found - float(started)) < 2  # the clock may have been set in between


def project_tracker(project: Path, env: str | None) -> StudyTracker:
    """The tracker of a project's studies, from its ``mlflow.yml``."""
    from kedro.config import OmegaConfigLoader
    from kedro.framework.project import settings

    loader = OmegaConfigLoader(
        conf_source=str(project / settings.CONF_SOURCE), env=env, **settings.CONFIG_LOADER_ARGS
    )
    return StudyTracker(project, loader["mlflow"])


class StudyTracker:
    """Runs of a study's cells: an experiment a study, a flat run a cell, found by its digest.

    Args:
        project: the project's folder.
        config: ``mlflow.yml``.
    """

    def __init__(self, project: Path, config: Mapping[str, Any]) -> None:
        self._project = project
        self._config = tracking_config(config, project)
        uri = (self._config["server"] or {}).get("mlflow_tracking_uri")
        self._uri = uri
        self._pages = uri if str(uri).startswith("http") else "http://127.0.0.1:5000"

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        # Made when it is wanted: it makes the database.
        return mlflow.MlflowClient(tracking_uri=self._uri)

    def start(self, study: str) -> None:
        """Make the study's experiment, as mlflow.yml makes the project's."""
        if self._client.get_experiment_by_name(study) is not None:
            return
        known = (self._config["tracking"].get("experiment") or {}).get("create_experiment_kwargs")
        given = dict(known or {})
        folder = given.get("artifact_location")
        if folder is not None and "://" not in folder:
            given["artifact_location"] = (self._project / folder).resolve().as_uri()
        self._client.create_experiment(study, **given)

    def log_found(self, study: str, cells: Sequence[tuple[Cell, CellRecord]]) -> dict[str, str]:
        """Make runs of cells that were trained for another study, or elsewhere.

        Returns:
            Digest of a cell -> address of its run, as ``make ui`` shows it; of all cells.
        """
        experiment = self._experiment(study)
        tracked = self._finished(study)
        for cell, record in cells:
            if record.digest in tracked:
                continue
            tags = cell_tags(study, cell, record.digest) | {"mlflow.runName": cell.name}
            tags |= {"found": f"trained {record.ended} on {record.device}"}
            run = self._client.create_run(experiment, tags=tags)
            known = record.parameters | {"seed": record.seed} | cell_axes(cell)
            log_parameters(self._client, run.info.run_id, known)
            stage = record.stages[-1]["stage"]
            metrics = [
                *curves(stage, record.history),
                *shared_metrics(record.metrics, record.seconds),
            ]
            log_metrics(self._client, run.info.run_id, metrics)
            self._client.set_terminated(run.info.run_id)
            tracked[record.digest] = run.info.run_id
        pages = f"{self._pages}/#/experiments/{experiment}/runs"
        return {digest: f"{pages}/{run}" for digest, run in tracked.items()}

    def _experiment(self, study: str) -> str:
        found = self._client.get_experiment_by_name(study)
        assert found is not None, "start() makes it"
        identity: str = found.experiment_id
        return identity

    def _finished(self, study: str) -> dict[str, str]:
        """Digest of a cell -> its last finished run."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment(study)],
                "attributes.status = 'FINISHED'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found |= {r.data.tags["cell"]: r.info.run_id for r in page if "cell" in r.data.tags}
            token = page.token
            if not token:
                return found
