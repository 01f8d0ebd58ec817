"""A study on a Kedro project: a trial is a session that gets the trial's values as parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedro.framework.project import settings
from kedro.framework.session import KedroSession
from kedro.runner import AbstractRunner

from clickprompt.nested import flat, merged, nested
from clickprompt.parameters import Stage, check_parameters
from clickprompt.running import quiet
from clickprompt.training.result import TrainedModel
from clickprompt.tuning.environment import NAME, check_environment, write_environment
from clickprompt.tuning.report import write_page
from clickprompt.tuning.space import check_space
from clickprompt.tuning.study import TunedStudy, import_optuna, tune

logger = logging.getLogger(__name__)

# Stage -> the registered pipeline that makes it, and its dataset there.
MADE_BY: dict[Stage, tuple[str, str]] = {
    "backbone": ("backbone", "backbone"),
    "finetune_without_plm": ("finetune", "clickprompt_without_plm"),
    "finetune_with_plm": ("finetune", "clickprompt_with_plm"),
}
# With one of these tuned, every trial has a pretraining of its own.
PRETRAINING = ("ctr.", "plm.", "prompts.", "pretrain.")

# Logger -> the level from which it may speak inside a trial.
SAME_IN_EVERY_TRIAL = {
    "clickprompt.runner": logging.WARNING,  # what is up to date
    "kedro.io.data_catalog": logging.ERROR,  # datasets of the catalog are replaced
    "kedro.runner": logging.WARNING,  # the run is completed
}


@dataclass(frozen=True)
class ProjectSearch:
    """What ``kedro tune`` is asked for.

    Attributes:
        project: the project's folder; the working folder, too.
        make_runner: a runner that repeats nothing; gets the datasets that are wanted of it.
        stage: that is tuned.
        env: environment; None is Kedro's default.
        params: runtime parameters, nested.
        study: name; None: made of environment, CTR model and stage.
        trials: None: ``tuning.trials``.
        write: name of the environment for the best parameters; None: the study's.
        force: replace an environment that was edited.
        command: as the user typed it, for the comment in the environment.
    """

    project: Path
    make_runner: Callable[[tuple[str, ...]], AbstractRunner]
    stage: Stage
    env: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    study: str | None = None
    trials: int | None = None
    write: str | None = None
    force: bool = False
    command: str = "kedro tune"


def tune_project(search: ProjectSearch) -> tuple[TunedStudy, Path, Path]:
    """Search, write the page of figures and the environment of the best parameters.

    Returns:
        The study, the page, the environment's folder.

    Raises:
        ParameterError: parameters or space cannot be used.
        StudyError: see :func:`~clickprompt.tuning.study.tune`.
        ValueError: optuna is missing, study or environment cannot have this name, ``params`` names
            what is tuned, or training shall have several processes.
    """
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(search.project / settings.CONF_SOURCE),
        env=search.env,
        runtime_params=dict(search.params),
        **settings.CONFIG_LOADER_ARGS,
    )
    raw = loader["parameters"]
    parameters = check_parameters(raw)
    if parameters.training.processes * parameters.training.machines > 1:
        raise ValueError(
            f"training.processes and training.machines must be 1 for kedro tune, got "
            f"{parameters.training.processes} and {parameters.training.machines}"
        )
    space, _ = check_space(raw, search.stage)
    import_optuna()
    name = search.study or f"{search.env or 'base'}_{parameters.ctr.name}_{search.stage}"
    if not NAME.fullmatch(name):
        raise ValueError(
            f"the study's name must be made of letters, digits, - and _, a letter first, got "
            f"{name!r}"
        )
    conf = search.project / settings.CONF_SOURCE
    write = search.write or name
    check_environment(conf, write, name, force=search.force)
    given = sorted({dimension.name for dimension in space} & set(dict(flat(search.params))))
    if given:
        raise ValueError(
            f"--params must name what is not tuned, got {', '.join(given)}: null takes a parameter "
            f"out of tuning.space.{search.stage}"
        )
    own_pretraining = any(dimension.name.startswith(PRETRAINING) for dimension in space)
    shared = ["model_input"]
    if search.stage != "backbone" and not own_pretraining:
        shared.append("pretrained")

    def prepare() -> str:
        pipeline, _ = MADE_BY[search.stage]
        with (session := _session(search, {})):
            session.run(pipeline_names=[pipeline], to_outputs=shared, runner=search.make_runner(()))
            return str(session.load_context().catalog.load("model_input").digest)

    def train(values: Mapping[str, Any]) -> TrainedModel:
        pipeline, output = MADE_BY[search.stage]
        unread = {"test": False, "diagnostic_rows": None}
        changes = merged(nested(values), {"training": unread})
        with quiet(SAME_IN_EVERY_TRIAL), (session := _session(search, changes)):
            made = session.run(
                pipeline_names=[pipeline],
                to_outputs=[output],
                runner=search.make_runner((output,)),
            )
        trained = made[output].load()
        assert isinstance(trained, TrainedModel)
        return trained

    tuned = tune(
        name=name,
        stage=search.stage,
        raw=raw,
        prepare=prepare,
        train=train,
        trials=search.trials,
    )
    page = write_page(tuned, Path(parameters.tuning.report_folder))
    folder = write_environment(
        tuned,
        conf=conf,
        name=write,
        source=search.env or settings.CONFIG_LOADER_ARGS["default_run_env"],
        changes=search.params,
        command=search.command,
        force=search.force,
    )
    return tuned, page, folder


def _session(search: ProjectSearch, changes: Mapping[str, Any]) -> KedroSession:
    return KedroSession.create(
        project_path=search.project,
        env=search.env,
        runtime_params=merged(search.params, changes),
        save_on_close=False,
    )
