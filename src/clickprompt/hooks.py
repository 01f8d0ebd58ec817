"""Hooks around a run: parameters are checked before any work, and MLflow keeps a record.

The catalog says what is tracked: an entry's ``metadata: tracking:`` is ``training`` (a
``TrainedModel``: curves and metrics), ``results`` (rows of the result table), ``report`` (a JSON
artifact), ``figure`` (plotly) or ``digest`` (of the data, as a tag).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clickprompt.tracking import (  # before MLflow is imported: it says that nothing is sent
    PROCESS_TAG,
    Metrics,
    curves,
    git_state,
    is_alive,
    log_metrics,
    log_parameters,
    process_name,
    result_metrics,
    scoring_metrics,
    shared_metrics,
    tracking_config,
    training_metrics,
)

# isort: split
import mlflow
from kedro.config import MissingConfigException
from kedro.framework.hooks import hook_impl
from kedro.io import MemoryDataset
from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook
from mlflow.entities import RunStatus

from clickprompt.datasets import ModelInputDataset
from clickprompt.parameters import check_parameters
from clickprompt.running import RunInterruptedError, running_part
from clickprompt.training.listener import StageStoppedError
from clickprompt.training.ranks import follows
from clickprompt.training.result import training_seconds

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)


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


class PartHook:
    """Keeps what a part of a search or a study makes apart: the project's results stay as they are.

    The weights of trained stages lie in ``training.folder`` by digest as always.
    """

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Put datasets in memory, and the arrays in their folder, in place of the catalog's."""
        part = running_part()
        if part is None:
            return
        apart: set[str] = set()
        if part.own_results:
            apart |= pipeline.only_nodes_with_tags("training").all_outputs()
        if part.model_input is not None:
            # Transcoded names share a file, which memory would not.
            made = pipeline.only_nodes_with_tags("data").all_outputs() - {"model_input"}
            apart |= {name for name in made if "@" not in name}
            metadata = getattr(catalog.get("model_input"), "metadata", None)
            catalog["model_input"] = ModelInputDataset(
                path=str(part.model_input), metadata=metadata
            )
        for name in apart:
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

    def __init__(self) -> None:
        super().__init__()
        self._looked_through: set[tuple[str, str]] = set()  # databases and experiments

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Set MLflow up from ``mlflow.yml``."""
        self._parameters = check_parameters(context.config_loader["parameters"])
        part = running_part()
        follower = follows(self._parameters.training)
        self._silent = follower or (part is not None and not part.tracked)
        if self._silent:
            self._is_mlflow_enabled = False
        if follower:
            for name in ("clickprompt", "kedro"):
                logging.getLogger(name).setLevel(logging.WARNING)
        if self._silent:
            return
        mlflow.telemetry.set_telemetry_client()  # off, though MLflow may be imported already
        context.config_loader["mlflow"] = tracking_config(
            context.config_loader["mlflow"],
            context.project_path,
            part.experiment if part is not None else None,
        )
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
        part = running_part()
        if part is not None:
            tracking.run.name = part.name
        elif tracking.run.name is None:
            tracking.run.name = (
                f"{parameters.data.reader} {parameters.ctr.name} seed {parameters.seed}"
            )
        self._close_abandoned_runs(tracking.experiment._experiment.experiment_id)
        super().before_pipeline_run(run_params, pipeline, catalog)
        if not self._is_mlflow_enabled:
            return
        given = [name for name in pipeline.inputs() if name.startswith("params:")]
        values = {name.removeprefix("params:"): catalog.load(name) for name in given}
        tags = {
            "environment": run_params.get("env") or "base",
            "ctr": parameters.ctr.name,
            PROCESS_TAG: process_name(os.getpid()),
            **git_state(self._project),
            **(part.tags if part is not None else {}),
            **_state_tags("running"),
        }
        if part is not None:
            values |= part.parameters
        log_parameters(self._client, self.run_id, values, tags)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: CatalogProtocol, inputs: dict[str, Any], is_async: bool
    ) -> None:
        """Reopen the run in this thread; its parameters are logged already."""
        if not self._silent:
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
            self._set_tags(_state_tags("trained"))
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
                self._log_metrics(curves(error.stage, error.history))
                self._set_tags(_state_tags("pruned"))
            else:
                note = f"{type(error).__name__}: {error}"[:500]
                self._set_tags({"error": note, **_state_tags("stopped" if stopped else "failed")})
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
        """Mark runs of this machine as killed whose process is gone (``kill -9``, power loss).

        Of the parts of a study, the first one of this process looks for all of them.
        """
        place = (mlflow.get_tracking_uri(), experiment)
        if running_part() is not None and place in self._looked_through:
            return
        self._looked_through.add(place)
        for run in self._client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            process = run.data.tags.get(PROCESS_TAG)
            if process is None or is_alive(process):
                continue
            note = "the process vanished without closing the run; marked at the next start"
            self._client.set_tag(run.info.run_id, "ended", note)
            self._client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))

    def _track(self, name: str, data: Any) -> None:
        """Log one dataset as its catalog entry says."""
        kind = _kind(self._catalog, name)
        if kind is None:
            return
        self._tracked.add(name)
        if kind == "training":
            metrics = list(training_metrics(data.stage, data.report))
            part = running_part()
            if part is not None and part.output == name:
                metrics += shared_metrics(data.report["metrics"], training_seconds(data))
            self._log_metrics(metrics)
        elif kind == "results":
            self._log_metrics(result_metrics(data))
            self._client.log_dict(self.run_id, data, f"reports/{name}.json")
        elif kind == "report":
            self._client.log_dict(self.run_id, data, f"reports/{name}.json")
        elif kind == "figure":
            self._figures[name] = data
        elif kind == "scoring":
            self._log_metrics(scoring_metrics(data))
            self._client.log_dict(self.run_id, data, f"reports/{name}.json")
        elif kind == "model":
            self._log_model(name)
        elif kind == "digest":
            # What has just been saved is the arrays that were written, without a digest yet.
            made = self._catalog.load(name) if isinstance(data, tuple) else data
            self._client.set_tag(self.run_id, "data_digest", made.digest)
        else:
            raise ValueError(
                f"{name}: metadata.tracking must be training, results, report, figure, scoring, "
                f"model or digest, got {kind!r}"
            )

    def _log_metrics(self, metrics: Metrics) -> None:
        log_metrics(self._client, self.run_id, metrics)

    def _log_model(self, name: str) -> None:
        """The bundle of a model that was just trained, as an MLflow model.

        A run that found it up to date has nothing new to log; trials and cells do not log theirs.
        """
        serving = self._parameters.serving
        if not serving.log_model or running_part() is not None:
            return
        from clickprompt.serving.mlflow_model import log_bundle

        model = name.removesuffix("_bundle")
        register_as = serving.register_as
        if register_as is not None and model != "clickprompt_with_plm":
            register_as += f"_{model.removeprefix('clickprompt_')}"
        log_bundle(self._catalog.load(name), name=model, register_as=register_as)

    def _log_figures(self) -> None:
        """One page with all figures: it holds plotly itself once and needs no network.

        Not for trials and cells: their curves are metrics too, and hundreds of pages of 5 MB help
        nobody.
        """
        if not self._figures or running_part() is not None:
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


def _state_tags(state: str) -> dict[str, str]:
    """The tag that says how a part of a search stands."""
    part = running_part()
    return {part.state_tag: state} if part is not None and part.state_tag is not None else {}
