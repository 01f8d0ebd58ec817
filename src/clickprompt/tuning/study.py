"""One study: trials proposed by TPE, pruned by the median, kept in SQLite, continued after a kill.

The sampler of each trial has a seed of its own, from ``tuning.seed`` and the trials before, so that
a study that was interrupted draws what it would have drawn otherwise.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.parameters import Stage, TuningParameters, check_parameters
from clickprompt.progress import clock
from clickprompt.running import RunningPart, inside
from clickprompt.training.listener import History, StageStoppedError, listening
from clickprompt.training.result import TrainedModel
from clickprompt.tuning.space import Space, check_space, fixed_parameters, short_names, show_value

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

CRITERION = "valid_auc"  # that of the click objective: larger is better

# More failures in a row than this are no accident of one trial's parameters.
FAILURES_IN_A_ROW = 3

# Attributes of a trial in the storage.
VALUES, REASON, CONTINUES = "values", "reason", "continues"
DIVERGED = "diverged"


class StudyError(ValueError):
    """A study cannot go on, or has nothing to show."""


@dataclass(frozen=True)
class TunedStudy:
    """A study with the number of finished trials that was asked for.

    Attributes:
        name: of the study.
        stage: that was tuned.
        path: its SQLite file.
        space: its dimensions.
        study: Optuna's own object.
    """

    name: str
    stage: Stage
    path: Path
    space: Space
    study: optuna.Study

    @property
    def best(self) -> optuna.trial.FrozenTrial:
        """The trial with the largest valid AUC."""
        return self.study.best_trial

    @property
    def best_values(self) -> dict[str, Any]:
        """Its parameters: dotted name -> value."""
        return dict(self.best.user_attrs[VALUES])


def tune(
    *,
    name: str,
    stage: Stage,
    raw: Mapping[str, Any],
    prepare: Callable[[], str],
    train: Callable[[Mapping[str, Any]], TrainedModel],
    trials: int | None = None,
) -> TunedStudy:
    """Search the declared space until ``trials`` trials are finished, in this call and before.

    A finished trial is one that was trained to its end, was pruned, or diverged. A trial that a
    kill left behind is proposed again first, and goes on from its stage's checkpoint. The same
    seed, space and data give the same trials, however often the search was interrupted, as long as
    one process works on it and training itself repeats.

    Args:
        name: of the study; the SQLite file is ``<tuning.folder>/<name>.db``.
        stage: that ``train`` trains, with the space ``tuning.space.<stage>``.
        raw: merged ``conf`` parameters, not yet checked.
        prepare: makes what all trials share; returns the digest of the data.
        train: trains a stage with these parameters (dotted name -> value), without test.
        trials: None: ``tuning.trials``.

    Returns:
        The study.

    Raises:
        ParameterError: parameters or space cannot be used.
        StudyError: the study was made with another space, data or parameters, is being tuned by
            another process, or fails again and again.
        ValueError: optuna is not installed.
    """
    space, left_out = check_space(raw, stage)
    parameters = check_parameters(raw)
    optuna = import_optuna()
    for parameter, why in left_out.items():
        logger.info("%s is not tuned: %s", parameter, why)
    path = Path(parameters.tuning.folder) / f"{name}.db"
    with _only_process(name, path):
        study = optuna.create_study(
            study_name=name,
            storage=f"sqlite:///{path.resolve()}",
            direction="maximize",
            load_if_exists=True,
            pruner=_pruner(parameters.tuning),
        )
        record = {
            "stage": stage,
            "space": {dimension.name: dimension.describe() for dimension in space},
            "fixed": fixed_parameters(parameters, stage, space),
        }
        _check_record(study, record, path)
        with inside(_part(name, None)):
            record = {"data": {"digest": prepare()}}
        _check_record(study, record, path)
        _give_back_killed(study)
        tuned = TunedStudy(name=name, stage=stage, path=path, space=space, study=study)
        _Search(tuned, parameters.tuning, train).run(trials or parameters.tuning.trials)
    return tuned


def _part(study: str, number: int | None) -> RunningPart:
    """A trial for the shell; without a number: what all trials share."""
    if number is None:
        return RunningPart(study, f"{study} data", {"study": study}, own_results=False)
    tags = {"study": study, "trial": str(number)}
    return RunningPart(study, f"{study} trial {number}", tags, state_tag="trial_state")


def import_optuna() -> Any:
    """Optuna, without its log of every trial.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError(
            "kedro tune needs the package optuna, got none: pip install -e '.[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class _Search:
    """The loop over trials."""

    def __init__(
        self,
        tuned: TunedStudy,
        tuning: TuningParameters,
        train: Callable[[Mapping[str, Any]], TrainedModel],
    ) -> None:
        self._tuned, self._tuning, self._train = tuned, tuning, train
        self._study = tuned.study

    def run(self, trials: int) -> None:
        """Trial after trial, until so many are finished."""
        failed: list[str] = []
        short = short_names(self._tuned.space)
        started, before = time.monotonic(), len(finished_trials(self._study))
        while (done := len(finished_trials(self._study))) < trials:
            trial = self._ask()
            words = ", ".join(
                f"{short[name]} {show_value(value)}"
                for name, value in trial.user_attrs[VALUES].items()
            )
            logger.info("trial %d (%d of %d): %s", trial.number, done + 1, trials, words)
            failure = self._run_trial(trial)
            failed = [*failed, failure] if failure else []
            if len(failed) == FAILURES_IN_A_ROW:
                raise StudyError(
                    f"study {self._tuned.name} must not fail {FAILURES_IN_A_ROW} times in a row, "
                    f"got at last: {failure}"
                )
            ended = len(finished_trials(self._study))
            left = (time.monotonic() - started) / max(ended - before, 1) * (trials - ended)
            logger.info("%d of %d trials, %s, %s left", ended, trials, self._best(), clock(left))
        if not _of_state(self._study, "COMPLETE"):
            raise StudyError(
                f"study {self._tuned.name} must have a trial that came to its end, got "
                f"{trials} that diverged or were pruned: change tuning.space.{self._tuned.stage}"
            )

    def _ask(self) -> optuna.Trial:
        """The next trial with all its values."""
        continued = {t.user_attrs.get(CONTINUES) for t in self._study.get_trials(deepcopy=False)}
        position = sum(
            VALUES in trial.user_attrs and trial.number not in continued
            for trial in _of_state(self._study, "COMPLETE", "PRUNED", "FAIL")
        )
        self._study.sampler = _sampler(self._tuning, position)
        trial = self._study.ask()
        values = {dimension.name: dimension.draw(trial) for dimension in self._tuned.space}
        trial.set_user_attr(VALUES, values)
        return trial

    def _run_trial(self, trial: optuna.Trial) -> str | None:
        """Train one trial and record how it ended; returns why it failed."""
        from optuna.trial import TrialState
        from torch import OutOfMemoryError

        from clickprompt.training.divergence import DivergedError

        reporter = _Reporter(trial, self._tuned.stage, prune=self._tuning.prune)
        try:
            with inside(_part(self._tuned.name, trial.number)), listening(reporter):
                trained = self._train(trial.user_attrs[VALUES])
        except StageStoppedError as error:
            logger.info("trial %d is pruned after epoch %d", trial.number, len(error.history))
            self._study.tell(trial, state=TrialState.PRUNED)
        except DivergedError as error:
            # Pruned, not failed: the sampler learns from it.
            logger.warning("trial %d diverged: %s", trial.number, error)
            trial.set_user_attr(DIVERGED, True)
            trial.set_user_attr(REASON, str(error))
            self._study.tell(trial, state=TrialState.PRUNED)
        except (ValueError, MemoryError, OutOfMemoryError) as error:
            logger.warning("trial %d failed: %s", trial.number, error)
            trial.set_user_attr(REASON, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return str(error)
        else:
            reporter.report(trained.report["history"])
            self._study.tell(trial, trained.report["metrics"][CRITERION])
        return None

    def _best(self) -> str:
        complete = _of_state(self._study, "COMPLETE")
        if not complete:
            return "none trained to its end yet"
        best = self._study.best_trial
        return f"best valid AUC {best.value:.4f} (trial {best.number})"


class _Reporter:
    """Tells Optuna the valid metric of every epoch, and ends the stage if the pruner says so."""

    def __init__(self, trial: optuna.Trial, stage: str, *, prune: bool) -> None:
        self._trial, self._stage, self._prune = trial, stage, prune
        self._epochs = 0

    def __call__(self, stage: str, history: History) -> None:
        if stage != self._stage:  # the pretraining that a trial needs
            return
        for epoch in range(self._epochs, len(history)):
            self.report(history[: epoch + 1])
            if self._prune and self._trial.should_prune():
                raise StageStoppedError(stage, history[: epoch + 1])

    def report(self, history: History) -> None:
        """Tell what was not told."""
        for entry in history[self._epochs :]:
            self._trial.report(entry[CRITERION], entry["epoch"])
            self._epochs += 1


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that count: trained to the end, pruned or diverged."""
    return _of_state(study, "COMPLETE", "PRUNED")


def _of_state(study: optuna.Study, *states: str) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]


def _sampler(tuning: TuningParameters, position: int) -> optuna.samplers.BaseSampler:
    """TPE (Bergstra et al., 2011) for the trial after ``position`` others."""
    from optuna.samplers import TPESampler

    (seed,) = np.random.SeedSequence([tuning.seed, position]).generate_state(1)
    return TPESampler(n_startup_trials=tuning.random_trials, seed=int(seed))


def _pruner(tuning: TuningParameters) -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(
        n_startup_trials=tuning.prune_from_trial, n_warmup_steps=tuning.prune_from_epoch
    )


def _give_back_killed(study: optuna.Study) -> None:
    """Close the trials whose process was killed, and propose their parameters again."""
    from optuna.trial import TrialState

    waiting = {trial.user_attrs.get(CONTINUES) for trial in _of_state(study, "WAITING")}
    for trial in _of_state(study, "RUNNING"):
        # First propose, then close: a kill in between loses nothing and repeats nothing.
        if trial.params and trial.number not in waiting:
            study.enqueue_trial(trial.params, user_attrs={CONTINUES: trial.number})
        study.tell(trial.number, state=TrialState.FAIL)
        logger.info("trial %d was interrupted and goes on as a new one", trial.number)


def _check_record(study: optuna.Study, record: dict[str, Any], path: Path) -> None:
    """Write down what the study is made with; one that has trials must have it already.

    Raises:
        StudyError: names each difference.
    """
    if not study.trials:
        for key, value in record.items():
            study.set_user_attr(key, value)
        return
    differences = []
    for key, value in record.items():
        old = study.user_attrs[key]
        if isinstance(value, dict):
            differences += [
                f"{key} {name} was {old.get(name, 'not there')}, is {value.get(name, 'not there')}"
                for name in dict.fromkeys((*old, *value))
                if old.get(name) != value.get(name)
            ]
        elif old != value:
            differences.append(f"{key} was {old}, is {value}")
    if differences:
        raise StudyError(
            f"study {study.study_name} must go on with what it was begun with, got other values: "
            f"{'; '.join(differences)}. Give the new study another name (--study), or delete {path}"
        )


@contextmanager
def _only_process(name: str, path: Path) -> Iterator[None]:
    """Hold the study's lock: the system opens it again when this process ends in any way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"study {name} must be tuned by one process at a time, got another that holds "
                f"{path.with_suffix('.lock')}"
            ) from None
        yield
