"""Hooks around a run: parameters are checked before any work, and MLflow keeps a record.

The catalog says what is tracked: an entry's ``metadata: tracking:`` is ``training`` (a
``TrainedModel``: curves and metrics), ``results`` (rows of the result table), ``report`` (a JSON
artifact), ``figure`` (plotly) or ``digest`` (of the data, as a tag).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

# MLflow reads this when it is imported; the plugins' import may have come first.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A bar for the files of each logged model says nothing to the user.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import psutil
from kedro.config import MissingConfigException
from kedro.framework.hooks import hook_impl
from kedro.io import MemoryDataset
from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook
from mlflow.entities import Metric, Param, RunStatus
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH
from pydantic import BaseModel

from clickprompt.parameters import check_parameters
from clickprompt.runner import RunInterruptedError
from clickprompt.training.listener import StageStoppedError
from clickprompt.training.ranks import follows
from clickprompt.tuning.trial import running_trial

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)

PROCESS_TAG = "process"
BATCH = 100  # MLflow's limit of parameters in one request


class ParametersHook:
    """Reads the parameters, which checks them, before the catalog and before any other hook."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check the parameters.

        Raises:
            ParameterError: all mistakes at once.
        """
        check_parameters(context.config_loader["parameters"])


class SparkHook:
    """Starts the Spark session that ``spark.yml`` of the environment describes, if it has one."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Start it, or take the one that runs.

        Raises:
            ValueError: PySpark or Java is not there.
        """
        try:
            settings = context.config_loader["spark"]
        except MissingConfigException:
            return
        if settings:
            start_spark(settings)


def start_spark(settings: Mapping[str, Any]) -> Any:
    """The Spark session with these settings.

    Raises:
        ValueError: PySpark or Java is not there.
    """
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError:
        raise ValueError(
            "spark.yml needs the package pyspark, got none: pip install -e '.[spark]'"
        ) from None
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except (PySparkRuntimeError, FileNotFoundError) as error:
        raise ValueError(
            f"PySpark needs Java 17 or 21 (on the path, or in JAVA_HOME), got {error}"
        ) from None


class TrialHook:
    """Keeps the trained stages of a trial in memory: the project's results stay what they are.

    Their weights lie in ``training.folder`` by digest as always.
    """

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Put datasets in memory in place of what the training nodes would write."""
        trial = running_trial()
        if trial is None or trial.number is None:
            return
        for name in pipeline.only_nodes_with_tags("training").all_outputs():
            metadata = getattr(catalog.get(name), "metadata", None)
            catalog[name] = MemoryDataset(copy_mode="assign", metadata=metadata)


class TrackingHook(MlflowHook):
    """One flat MLflow run for one ``kedro run``.

    It differs from the plugin's hook: typed parameters are logged one by one, for nodes that
    are skipped as up to date too; the tracking database lies in the project whatever the
    working folder is; curves, results, reports and figures are logged as the catalog says; runs
    whose process vanished are closed at the next start. Of several processes that run the same
    pipeline, the first one alone is tracked.
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Set MLflow up from ``mlflow.yml``."""
        self._parameters = check_parameters(context.config_loader["parameters"])
        self._silent = follows(self._parameters.training)
        if self._silent:
            self._is_mlflow_enabled = False
            for name in ("clickprompt", "kedro"):
                logging.getLogger(name).setLevel(logging.WARNING)
            return
        mlflow.telemetry.set_telemetry_client()  # off, though MLflow may be imported already
        config = context.config_loader["mlflow"]
        server = config.get("server") or {}
        uri = _in_project(server.get("mlflow_tracking_uri"), context.project_path)
        context.config_loader["mlflow"] = config | {"server": server | {"mlflow_tracking_uri": uri}}
        self._project = context.project_path
        super().after_context_created(context)

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Start the run and log its parameters and tags."""
        if self._silent:
            return
        self._catalog = catalog
        self._tracked: set[str] = set()
        self._figures: dict[str, Any] = {}
        parameters = self._parameters
        tracking = self.mlflow_config.tracking
        trial = running_trial()
        if trial is not None:
            tracking.run.name = trial.name
        elif tracking.run.name is None:
            tracking.run.name = (
                f"{parameters.data.reader} {parameters.ctr.name} seed {parameters.seed}"
            )
        self._close_abandoned_runs(tracking.experiment._experiment.experiment_id)
        super().before_pipeline_run(run_params, pipeline, catalog)
        if not self._is_mlflow_enabled:
            return
        mlflow.set_tags(
            {
                "environment": run_params.get("env") or "base",
                "ctr": parameters.ctr.name,
                PROCESS_TAG: _process(os.getpid()),
                **_git_state(self._project),
                **_trial_tags("running"),
            }
        )
        self._log_parameters(pipeline, catalog)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: CatalogProtocol, inputs: dict[str, Any], is_async: bool
    ) -> None:
        """Reopen the run in this thread; its parameters are logged already."""
        super().before_node_run(node=node, catalog=catalog, inputs={}, is_async=is_async)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log what a node has just made."""
        if self._is_mlflow_enabled:
            self._track(dataset_name, data)

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Log what was up to date too, so that runs can be compared; end the run."""
        if self._silent:
            return
        if self._is_mlflow_enabled:
            for name in sorted(pipeline.datasets() - self._tracked):
                kind = _kind(catalog, name)
                if kind and kind != "model" and catalog.exists(name):
                    self._track(name, catalog.load(name))
            self._log_figures()
            self._set_tags(_trial_tags("trained"))
        super().after_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self,
        error: Exception,
        run_params: dict[str, Any],
        pipeline: Pipeline,
        catalog: CatalogProtocol,
    ) -> None:
        """Mark the run as failed, or as killed where the user or the search stopped it."""
        if self._silent:
            return
        stopped = isinstance(error, RunInterruptedError | StageStoppedError)
        if self._is_mlflow_enabled:
            self._log_figures()
            if isinstance(error, StageStoppedError):
                self._log_metrics(_curves(error.stage, error.history))
                self._set_tags(_trial_tags("pruned"))
            else:
                note = f"{type(error).__name__}: {error}"[:500]
                self._set_tags({"error": note, **_trial_tags("stopped" if stopped else "failed")})
        super().on_pipeline_error(error, run_params, pipeline, catalog)
        if self._is_mlflow_enabled and stopped:
            self._client.set_terminated(self.run_id, RunStatus.to_string(RunStatus.KILLED))

    @property
    def _client(self) -> mlflow.MlflowClient:
        return self.mlflow_config.server._mlflow_client

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def _close_abandoned_runs(self, experiment: str) -> None:
        """Mark runs of this machine as killed whose process is gone (``kill -9``, power loss)."""
        for run in self._client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            process = run.data.tags.get(PROCESS_TAG)
            if process is None or _is_alive(process):
                continue
            note = "the process vanished without closing the run; marked at the next start"
            self._client.set_tag(run.info.run_id, "ended", note)
            self._client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))

    def _log_parameters(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        flat: dict[str, str] = {}
        for name in sorted(pipeline.inputs()):
            if name.startswith("params:"):
                flat |= dict(_flatten(name.removeprefix("params:"), catalog.load(name)))
        # The strategy "tag" of mlflow.yml: MLflow refuses longer values as parameters.
        for name, value in flat.items():
            if len(value) > MAX_PARAM_VAL_LENGTH:
                self._client.set_tag(self.run_id, name, value)
        params = [Param(n, v) for n, v in flat.items() if len(v) <= MAX_PARAM_VAL_LENGTH]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(self.run_id, params=params[start : start + BATCH])

    def _track(self, name: str, data: Any) -> None:
        """Log one dataset as its catalog entry says."""
        kind = _kind(self._catalog, name)
        if kind is None:
            return
        self._tracked.add(name)
        if kind == "training":
            self._log_metrics(_training_metrics(data.stage, data.report))
        elif kind == "results":
            self._log_metrics(_result_metrics(data))
            self._client.log_dict(self.run_id, data, f"reports/{name}.json")
        elif kind == "report":
            self._client.log_dict(self.run_id, data, f"reports/{name}.json")
        elif kind == "figure":
            self._figures[name] = data
        elif kind == "scoring":
            self._log_metrics(_scoring_metrics(data))
            self._client.log_dict(self.run_id, data, f"reports/{name}.json")
        elif kind == "model":
            self._log_model(name)
        elif kind == "digest":
            self._client.set_tag(self.run_id, "data_digest", self._catalog.load(name).digest)
        else:
            raise ValueError(
                f"{name}: metadata.tracking must be training, results, report, figure, scoring, "
                f"model or digest, got {kind!r}"
            )

    def _log_metrics(self, metrics: Iterator[tuple[str, float, int]]) -> None:
        now = mlflow.utils.time.get_current_time_millis()
        entries = [Metric(key, value, now, step) for key, value, step in metrics]
        for start in range(0, len(entries), BATCH):
            self._client.log_batch(self.run_id, metrics=entries[start : start + BATCH])

    def _log_model(self, name: str) -> None:
        """The bundle of a model that was just trained, as an MLflow model.

        A run that found it up to date has nothing new to log; trials do not log theirs.
        """
        serving = self._parameters.serving
        if not serving.log_model or running_trial() is not None:
            return
        from clickprompt.serving.mlflow_model import log_bundle

        model = name.removesuffix("_bundle")
        register_as = serving.register_as
        if register_as is not None and model != "clickprompt_with_plm":
            register_as += f"_{model.removeprefix('clickprompt_')}"
        log_bundle(self._catalog.load(name), name=model, register_as=register_as)

    def _log_figures(self) -> None:
        """One page with all figures: it holds plotly itself once and needs no network.

        Not for trials: their curves are metrics too, and hundreds of pages of 5 MB help nobody.
        """
        if not self._figures or running_trial() is not None:
            return
        parts = [
            figure.to_html(full_html=False, include_plotlyjs=position == 0)
            for position, figure in enumerate(self._figures.values())
        ]
        page = '<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>{}</body></html>'
        self._client.log_text(self.run_id, page.format("\n".join(parts)), "figures.html")


def _kind(catalog: CatalogProtocol, name: str) -> str | None:
    """What to do with a dataset, from its catalog entry."""
    metadata = getattr(catalog.get(name), "metadata", None) or {}
    return metadata.get("tracking")


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names and texts of a parameter; lists stay whole, as JSON."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flatten(f"{name}.{key}", part)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _training_metrics(stage: str, report: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Curves by epoch, and the numbers of the weights that are kept."""
    yield from _curves(stage, report["history"])
    curves = {key for entry in report["history"] for key, _ in _numbers("", entry)}
    for key, value in _numbers("", report["metrics"]):
        yield f"{stage}/{f'best_{key}' if key in curves else key}", value, report["best_epoch"]
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


def _curves(stage: str, history: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Numbers of each epoch."""
    for entry in history:
        for key, value in _numbers("", entry):
            if key != "epoch":
                yield f"{stage}/{key}", value, entry["epoch"]


def _result_metrics(rows: list[dict[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Test metrics of each row of the result table; MLflow shows a group for each metric."""
    for row in rows:
        for key in ("auc", "log_loss"):
            if row[key] is not None:
                yield f"test_{key}/{row['model']}", row[key], 0


def _scoring_metrics(report: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
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


def _trial_tags(state: str) -> dict[str, str]:
    """Tags of a run inside a study: its name, the trial, how it stands."""
    trial = running_trial()
    if trial is None:
        return {}
    tags = {"study": trial.study}
    if trial.number is not None:
        tags |= {"trial": str(trial.number), "trial_state": state}
    return tags


def _in_project(uri: str | None, project: Path) -> str | None:
    """A relative SQLite file is one of the project, not of the working folder."""
    prefix = "sqlite:///"
    if uri is None or not uri.startswith(prefix) or uri.startswith(prefix + "/"):
        return uri
    return f"{prefix}{project / uri.removeprefix(prefix)}"


def _git_state(project: Path) -> dict[str, str]:
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


def _process(pid: int) -> str:
    """Machine, process id and start time: enough to know later whether it still runs."""
    return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time():.0f}"


def _is_alive(process: str) -> bool:
    """Whether a process of ``_process`` runs; one of another machine is taken to run."""
    host, pid, started = process.rsplit(maxsplit=2)
    if host != socket.gethostname():
        return True
    try:
        found = psutil.Process(int(pid)).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(found - float(started)) < 2  # the clock may have been set in between
