"""``kedro run`` with this project's runner, ``kedro tune``, ``kedro study``, readable errors."""

from __future__ import annotations

import copy
import difflib
import logging
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import click
import yaml
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as stock_run
from kedro.framework.cli.utils import CONTEXT_SETTINGS, KedroCliError
from kedro.framework.project import configure_logging
from kedro.io import DatasetError
from kedro.utils import find_kedro_project

from clickprompt.new_table import new_table
from clickprompt.parameters import ParameterError, Stage
from clickprompt.running import RunInterruptedError

RUNNER = "clickprompt.runner.UpToDateRunner"
RUNNER_HELP = (
    "Runner of the nodes. The default repeats nothing that is up to date; "
    "--runner=SequentialRunner makes everything again."
)

TUNED: tuple[Stage, ...] = get_args(Stage)

# Kedro's own words of a failure, said again in full by the message at the end.
REPEATING_LOGGERS = ("kedro.pipeline.node", "kedro.validation.parameter_validator")


class ProjectCommand(click.Command):
    """A command on the project: mistakes of the user end in one message, not in a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run; a user's mistake becomes a short message and exit code 1."""
        project = find_kedro_project(Path.cwd())
        if project is not None:
            _move_to(project)
            _check_environment(ctx, project)
        for name in REPEATING_LOGGERS:
            logging.getLogger(name).addFilter(_is_not_error)
        received: list[int] = []
        try:
            with _termination_interrupts(received):
                return super().invoke(ctx)
        except (RunInterruptedError, KeyboardInterrupt) as error:
            where = str(error) or "interrupted"
            click.secho(f"{where}; the same command goes on from here", fg="red", err=True)
            ctx.exit(128 + (received[0] if received else signal.SIGINT))
        except Exception as error:
            if ctx.meta.get("clickprompt.verbose") or not is_user_error(error):
                raise
            logging.getLogger("clickprompt.traceback").error("The run failed", exc_info=error)
            _say(explain(error))
            ctx.exit(1)
        finally:
            for name in REPEATING_LOGGERS:
                logging.getLogger(name).removeFilter(_is_not_error)


@contextmanager
def _termination_interrupts(received: list[int]) -> Iterator[None]:
    """Let SIGTERM (a scheduler's, ``docker stop``, ``timeout``) end a command as Ctrl-C does.

    Args:
        received: gets the signal's number.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class RunCommand(ProjectCommand):
    """``kedro run``."""

    def invoke(self, ctx: click.Context) -> object:
        """Run; both forms of the option that names pipelines are fine."""
        _merge_pipeline_options(ctx)
        return super().invoke(ctx)


class TuneCommand(ProjectCommand):
    """``kedro tune``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words: the environment that is written says how it was found."""
        ctx.meta["clickprompt.words"] = list(args)
        return super().parse_args(ctx, args)


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone helps: a mistake in input, parameters, options, files or disk.

    A ``ValueError`` counts only where this package or Kedro raised it: one from the depth of
    another library is a fault of ours, and its traceback is wanted.
    """
    if isinstance(error, ParameterError | MissingConfigException | OSError | KedroCliError):
        return True
    if isinstance(error, DatasetError):
        return error.__cause__ is None or is_user_error(error.__cause__)
    return isinstance(error, ValueError) and _raised_by(error).startswith(("clickprompt", "kedro"))


def explain(error: BaseException) -> str:
    """The message: of the cause where Kedro only wraps it, with the dataset's name."""
    if isinstance(error, DatasetError) and error.__cause__ is not None:
        cause = explain(error.__cause__)
        name = str(error).partition(": ")[0]
        return f"{name}: {cause}" if name.isidentifier() else cause
    return str(error)


def _raised_by(error: BaseException) -> str:
    """Name of the module that raised ``error``."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", ""))


def _move_to(project: Path) -> None:
    """Run in the project's folder: relative folders in conf are the project's, logs too."""
    if Path.cwd() == project:
        return
    os.chdir(project)
    config = Path("conf/logging.yml")  # Kedro looked for it in the working folder
    if config.is_file() and "KEDRO_LOGGING_CONFIG" not in os.environ:
        configure_logging(yaml.safe_load(config.read_text(encoding="utf-8")))


def _check_environment(ctx: click.Context, project: Path) -> None:
    """Name the environments that exist, and the nearest one."""
    name = ctx.params.get("env")
    if name is None or ctx.params.get("conf_source"):
        return
    known = sorted(folder.name for folder in (project / "conf").iterdir() if folder.is_dir())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise click.BadParameter(
            f"must be a folder of conf ({', '.join(known)}), got {name!r}{hint}",
            ctx=ctx,
            param_hint="--env",
        )


def _merge_pipeline_options(ctx: click.Context) -> None:
    """Both ``--pipeline`` and ``--pipelines`` are fine; Kedro warns of the first."""
    if ctx.params.get("pipeline") and not ctx.params.get("pipelines"):
        ctx.params["pipelines"] = [ctx.params["pipeline"]]
        ctx.params["pipeline"] = None


def _say(message: str) -> None:
    click.secho(f"Error: {message}", fg="red", err=True)
    click.echo("(the traceback is in info.log; --verbose shows it here)", err=True)


def _is_not_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _remember_verbose(ctx: click.Context, _option: click.Parameter, verbose: bool) -> None:
    ctx.meta["clickprompt.verbose"] = verbose


VERBOSE = click.Option(
    ["--verbose", "-v"],
    is_flag=True,
    expose_value=False,
    callback=_remember_verbose,
    help="Show the traceback of an error.",
)


def _run_options() -> list[click.Parameter]:
    """Kedro's own options, with another default of ``--runner``, and ``--verbose``."""
    options = [copy.copy(option) for option in stock_run.params]
    for option in options:
        if isinstance(option, click.Option) and option.name == "runner":
            option.default, option.help = RUNNER, RUNNER_HELP
    return [*options, VERBOSE]


def _tune_options() -> list[click.Parameter]:
    """Kedro's ``--env`` and ``--params``, and what a search needs."""
    kedro = [copy.copy(option) for option in stock_run.params if option.name in ("env", "params")]
    return [
        *kedro,
        click.Option(
            ["--stage"],
            type=click.Choice(TUNED),
            default=TUNED[0],
            show_default=True,
            help="That is tuned, in the space tuning.space.<stage>.",
        ),
        click.Option(
            ["--trials"],
            type=click.IntRange(min=1),
            help="Finished trials of the study, those of earlier calls included; without it: "
            "tuning.trials.",
        ),
        click.Option(
            ["--study"],
            help="Its name, to go on or to begin; without it: made of environment, CTR model and "
            "stage.",
        ),
        click.Option(
            ["--write"],
            help="Environment that gets the best parameters, conf/<name>; without it: named as "
            "the study.",
        ),
        click.Option(
            ["--force"], is_flag=True, help="Replace that environment though it was edited."
        ),
        VERBOSE,
    ]


def _tune(
    env: str | None,
    params: dict[str, Any],
    stage: Stage,
    trials: int | None,
    study: str | None,
    write: str | None,
    force: bool,
) -> None:
    """The callback of ``kedro tune``."""
    from rich.console import Console

    from clickprompt.runner import UpToDateRunner
    from clickprompt.tuning import trials_table
    from clickprompt.tuning.runner import ProjectSearch, tune_project

    context = click.get_current_context()
    search = ProjectSearch(
        project=Path.cwd(),
        make_runner=lambda wanted: UpToDateRunner(wanted=wanted),
        stage=stage,
        env=env,
        params=params,
        study=study,
        trials=trials,
        write=write,
        force=force,
        command=shlex.join(["kedro", "tune", *context.meta["clickprompt.words"]]),
    )
    tuned, page, folder = tune_project(search)
    Console().print(trials_table(tuned))
    click.echo(f"Figures: {page}\nThe best parameters: {folder.relative_to(Path.cwd())}. Type:\n")
    click.echo(f"    kedro run --env={folder.name}")


def _study_options() -> list[click.Parameter]:
    """Kedro's ``--env`` and ``--params``, and what of a study is wanted."""
    kedro = [copy.copy(option) for option in stock_run.params if option.name in ("env", "params")]
    return [
        click.Argument(["name"], required=True),
        *kedro,
        click.Option(
            ["--only"],
            multiple=True,
            metavar="AXIS=VALUE[,VALUE]",
            help="Cells with these values alone; may be given for several axes.",
        ),
        click.Option(
            ["--seeds"], metavar="N[,N]", help="Instead of those that the study declares."
        ),
        click.Option(
            ["--processes"],
            type=click.IntRange(min=1),
            help="Cells at the same time, threads divided; without it: studies.processes.",
        ),
        click.Option(
            ["--dry-run"], is_flag=True, help="Show the cells and how long they take; train none."
        ),
        VERBOSE,
    ]


def _study(
    name: str,
    env: str | None,
    params: dict[str, Any],
    only: tuple[str, ...],
    seeds: str | None,
    processes: int | None,
    dry_run: bool,
) -> None:
    """The callback of ``kedro study``."""
    from rich.console import Console

    from clickprompt.runner import UpToDateRunner
    from clickprompt.studies import plan
    from clickprompt.studies.runner import ProjectStudy, list_studies, open_study, run_study

    console, project = Console(), Path.cwd()
    if name == "list":
        console.print(list_studies(project, env, params))
        return
    request = ProjectStudy(
        project=project,
        name=name,
        make_runner=UpToDateRunner,
        env=env,
        params=params,
        seeds=_numbers(seeds),
        filters=only,
        processes=processes,
    )
    study = open_study(request)
    at_once = processes or study.parameters.studies.processes
    if dry_run:
        estimates = plan.Estimates(study.records.all())
        console.print(plan.plan_table(name, study.planned, estimates))
        click.echo(plan.left_line(study.planned, estimates, at_once))
        return
    from clickprompt.tracking import project_tracker

    outcome = run_study(replace(request, tracker=project_tracker(project, env)), study)
    click.echo(f"{plan.count_line(outcome.planned)}; {outcome.trained} trained now")
    if outcome.page is not None:
        click.echo(f"Report: {outcome.page.relative_to(project)}")
    if outcome.failed:
        for entry in outcome.failed:
            click.secho(f"failed: {entry.cell.name}: {entry.failure}", fg="red", err=True)
        click.echo("the same command tries them again", err=True)
        click.get_current_context().exit(1)


def _numbers(given: str | None) -> tuple[int, ...] | None:
    """``0,1,2`` as numbers."""
    if given is None:
        return None
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise click.BadParameter(
            f"must be different numbers from 0 on, with commas between, got {given!r}",
            param_hint="--seeds",
        )
    return tuple(map(int, parts))


run = RunCommand(
    name="run",
    params=_run_options(),
    callback=stock_run.callback,
    help="Run a pipeline; what is up to date is not repeated.",
    context_settings=CONTEXT_SETTINGS,
)


tune = TuneCommand(
    name="tune",
    params=_tune_options(),
    callback=_tune,
    help="Search for the parameters of a stage that are best on valid; goes on where it was "
    "stopped.",
    context_settings=CONTEXT_SETTINGS,
)


study = ProjectCommand(
    name="study",
    params=_study_options(),
    callback=_study,
    help="Train the cells of a study, each a tracked run, and write its report; finished cells are "
    "skipped. `kedro study list` shows the studies.",
    context_settings=CONTEXT_SETTINGS,
)


@click.group(name="ClickPrompt")
def cli() -> None:
    """Commands of this project."""


cli.add_command(run)
cli.add_command(tune)
cli.add_command(study)
cli.add_command(new_table)
