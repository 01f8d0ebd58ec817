"""Trials: counted, pruned, failed, interrupted and continued; on a training that costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clickprompt.parameters import ParameterError
from clickprompt.running import running_part
from clickprompt.training.divergence import DivergedError
from clickprompt.training.listener import tell_epochs
from clickprompt.tuning import study as studies
from clickprompt.tuning.study import StudyError
from tests.tuning.searches import DECAY, EPOCHS, RATE, drawn, score, search, trained

OFF = {"tuning": {"prune": False}}


def states(tuned):
    return [trial.state.name for trial in tuned.study.trials]


def test_the_best_is_the_trial_with_the_largest_valid_metric(tmp_path):
    tuned = search(tmp_path, 12, **OFF)
    assert states(tuned) == ["COMPLETE"] * 12
    scores = [score(values) for values in drawn(tuned)]
    assert tuned.best.value == max(scores)
    assert tuned.best_values == drawn(tuned)[scores.index(max(scores))]
    assert tuned.best_values.keys() == {RATE, DECAY, "ctr.dropout"}
    for trial in tuned.study.trials:
        told = trial.intermediate_values
        values = trial.user_attrs["values"]
        assert told == {epoch: score(values, epoch) for epoch in range(1, EPOCHS + 1)}


def test_the_sampler_finds_better_values_than_chance(tmp_path):
    """The rate is drawn from 1e-3 to 3e-2 in the logarithm; within a tenth of the best one."""
    tuned = search(tmp_path, 40, **OFF)
    near = [abs(score(values) - 0.83) < 0.005 for values in drawn(tuned)]
    assert sum(near[-15:]) > 2 * 15 * 0.2 / 1.48


def test_the_same_seed_draws_the_same_and_another_does_not(tmp_path):
    first, second = (drawn(search(tmp_path / name, 8)) for name in "ab")
    other = drawn(search(tmp_path / "c", 8, tuning={"seed": 1}))
    assert first == second
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert len({values[RATE] for values in first}) == 8


def test_a_study_in_parts_draws_what_it_draws_at_once(tmp_path):
    whole = drawn(search(tmp_path / "whole", 9))
    for trials in (2, 5, 9):
        tuned = search(tmp_path / "parts", trials)
        assert len(drawn(tuned)) == trials
    assert drawn(tuned) == whole


def test_trials_that_are_there_count(tmp_path):
    search(tmp_path, 4)
    tuned = search(tmp_path, 3, train=lambda values: pytest.fail("trained again"))
    assert len(tuned.study.trials) == 4


def test_an_interrupted_trial_goes_on_with_its_values_and_changes_nothing_else(tmp_path):
    whole = drawn(search(tmp_path / "whole", 8))
    called: list[dict[str, float]] = []

    def interrupted(values):
        called.append(dict(values))
        if len(called) in (3, 4, 8):  # the third twice, and later one of those that TPE proposes
            raise KeyboardInterrupt
        return trained(values)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "parts", 8, train=interrupted)
    tuned = search(tmp_path / "parts", 8, train=interrupted)
    assert called[2] == called[3] == called[4]
    assert called[7] == called[8]
    assert drawn(tuned) == whole
    assert states(tuned).count("FAIL") == 3
    assert "RUNNING" not in states(tuned)
    assert "WAITING" not in states(tuned)


def test_a_kill_between_proposing_and_closing_repeats_nothing(tmp_path, monkeypatch):
    def interrupt(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 3, train=interrupt)
    import optuna

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            search(tmp_path, 3)
    tuned = search(tmp_path, 3)
    assert states(tuned) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    values = drawn(tuned)
    assert len({v[RATE] for v in values}) == 3


@pytest.mark.parametrize(
    ("tuning", "ends", "epochs"),
    [
        ({}, ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"], [2, 2, 0, 0]),
        ({"prune_from_epoch": 2}, ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"], [2, 2, 1, 1]),
        ({"prune_from_trial": 3}, ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"], [2, 2, 2, 0]),
        ({"prune": False}, ["COMPLETE"] * 4, [2] * 4),
    ],
)
def test_trials_below_the_median_are_pruned(tmp_path, tuning, ends, epochs):
    """Two good trials, then two bad ones; counted are the epochs after which training went on."""
    went_on: list[int] = []

    def train(values):
        went_on.append(0)
        rate = 1e-2 if len(went_on) <= 2 else 1e-3
        history = [{"epoch": e, "valid_auc": score({RATE: rate}, e)} for e in (1, 2, 3)]
        for epoch in (1, 2):
            tell_epochs("pretrain", [{"epoch": 1, "valid_mlm_loss": 1.0}])  # not the tuned stage
            tell_epochs("backbone", history[:epoch])
            went_on[-1] = epoch
        return trained({**values, RATE: rate})

    tuned = search(tmp_path, 4, train=train, tuning={"prune_from_trial": 2} | tuning)
    assert states(tuned) == ends
    assert went_on == epochs
    bad = tuned.study.trials[3]
    if bad.state.name == "PRUNED":
        assert bad.intermediate_values == {
            epoch: score({RATE: 1e-3}, epoch) for epoch in range(1, went_on[3] + 2)
        }


def test_a_diverged_trial_counts_and_the_search_goes_on(tmp_path):
    def train(values):
        if values[RATE] > 5e-3:
            raise DivergedError("the training loss must be finite, got nan")
        return trained(values)

    tuned = search(tmp_path, 10, train=train, **OFF)
    ends = [
        (trial.user_attrs["values"][RATE] > 5e-3, trial.state.name, "diverged" in trial.user_attrs)
        for trial in tuned.study.trials
    ]
    assert len(ends) == 10
    assert set(ends) == {(True, "PRUNED", True), (False, "COMPLETE", False)}


def test_a_failed_trial_does_not_count_nor_stop_the_search(tmp_path):
    calls: list[float] = []

    def train(values):
        calls.append(values[RATE])
        if len(calls) in (2, 3):
            raise ValueError("accumulate must be at most batch_size")
        return trained(values)

    tuned = search(tmp_path, 5, train=train, **OFF)
    assert states(tuned) == ["COMPLETE", "FAIL", "FAIL", *["COMPLETE"] * 4]
    assert "accumulate" in tuned.study.trials[1].user_attrs["reason"]
    assert len(set(calls)) == 7  # the same values are not tried again


def test_three_failures_in_a_row_stop_the_search(tmp_path):
    def train(values):
        raise ValueError("no such thing")

    with pytest.raises(StudyError, match=r"must not fail 3 times in a row, got .*no such thing"):
        search(tmp_path, 5, train=train)


def test_other_errors_end_the_search_and_the_trial_goes_on_later(tmp_path):
    def full_disk(values):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        search(tmp_path, 3, train=full_disk)
    assert states(search(tmp_path, 2)) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_study_without_a_trial_that_ended_has_no_best(tmp_path):
    def train(values):
        raise DivergedError("nan")

    with pytest.raises(StudyError, match=r"must have a trial that came to its end, got 2 that"):
        search(tmp_path, 2, train=train)


CHANGES = [
    ({"ctr": {"name": "deepfm"}}, r"fixed ctr\.name was dcnv2, is deepfm"),
    ({"backbone": {"batch_size": 7}}, r"fixed backbone\.batch_size was 256, is 7\."),
    ({"seed": 3}, r"fixed seed was 0, is 3"),
    ({"training": {"precision": "float32"}}, r"fixed training\.precision was auto, is float32"),
    (
        {"tuning": {"space": {"backbone": {RATE: {"low": 1e-4, "high": 1e-2}}}}},
        r"space backbone\.learning_rate_ctr was 0\.001 to 0\.03, log, is 0\.0001 to 0\.01",
    ),
    (
        {"tuning": {"space": {"backbone": {"ctr.dropout": None}}}},
        r"space ctr\.dropout was 0\.0 to 0\.5, step 0\.1, is not there; fixed ctr\.dropout was not "
        r"there, is 0\.0",
    ),
    ({"digest": "other"}, r"data digest was d, is other\. Give the new study another name"),
]


@pytest.mark.parametrize(("changes", "message"), CHANGES)
def test_a_study_goes_on_only_with_what_it_was_begun_with(tmp_path, changes, message):
    search(tmp_path, 2)
    with pytest.raises(StudyError, match=message):
        search(tmp_path, 3, **changes)
    assert len(search(tmp_path, 3, **changes, name="another").study.trials) == 3
    assert len(search(tmp_path, 3).study.trials) == 3


def test_what_does_not_decide_the_result_may_change(tmp_path):
    search(tmp_path, 2)
    changes = {"training": {"threads": 1}, "pretrain": {"epochs": 9}, "tuning": {"trials": 9}}
    assert len(search(tmp_path, 3, **changes).study.trials) == 3


def test_the_number_of_trials_is_that_of_the_parameters_unless_given(tmp_path):
    assert len(search(tmp_path, None, tuning={"trials": 2}).study.trials) == 2
    with pytest.raises(ParameterError, match=r"tuning\.trials: .* equal to 1, got 0"):
        search(tmp_path, None, tuning={"trials": 0})


def test_two_processes_cannot_tune_one_study(tmp_path):
    def train(values):
        with pytest.raises(StudyError, match=r"one process at a time, got another that holds"):
            search(tmp_path, 1)
        search(tmp_path, 1, name="another")
        return trained(values)

    assert states(search(tmp_path, 1, train=train)) == ["COMPLETE"]


def test_the_running_trial_is_known_inside_only(tmp_path):
    seen = []

    def train(values):
        seen.append(running_part())
        return trained(values)

    search(tmp_path, 2, train=train)
    assert [part.tags["trial"] for part in seen] == ["0", "1"]
    assert seen[1].name == "study trial 1"
    assert running_part() is None


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"needs the package optuna, got none: pip install"):
        search(tmp_path, 1)
    assert not (tmp_path / "studies").exists()


def test_the_search_imports_no_torch_before_a_trial():
    code = "import sys, clickprompt.tuning; print('torch' in sys.modules, 'optuna' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_the_criterion_is_that_of_the_click_objective():
    from clickprompt.training.objectives import ClickObjective

    assert ClickObjective.criterion == studies.CRITERION
