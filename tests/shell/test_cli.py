"""``kedro run``: Kedro's options, this project's runner, errors for users."""

from __future__ import annotations

import json
import signal
from contextlib import chdir

import click
import pytest
from click.testing import CliRunner
from kedro.framework.cli.project import run as stock_run
from kedro.io import DatasetError

from clickprompt.cli import (
    RUNNER,
    RunCommand,
    TuneCommand,
    explain,
    is_user_error,
    run,
    tune,
)
from clickprompt.evaluation.metrics import log_loss
from clickprompt.parameters import ParameterError
from clickprompt.running import RunInterruptedError
from clickprompt.tuning import TUNED_STAGES
from clickprompt.tuning.runner import MADE_BY


def options(command):
    return {option.name: option for option in command.params}


def test_every_option_of_kedro_is_kept():
    ours, stock = options(run), options(stock_run)
    assert set(ours) == set(stock) | {"verbose"}
    for name, option in stock.items():
        assert ours[name].opts == option.opts
        assert name == "runner" or ours[name].default == option.default
    assert ours["runner"].default == RUNNER
    assert stock["runner"].default != RUNNER  # Kedro's own command is left as it was


def test_tune_takes_the_environment_and_parameters_as_run_does():
    ours, stock = options(tune), options(stock_run)
    assert set(ours) == {
        "env", "params", "stage", "trials", "study", "write", "force", "verbose",
    }  # fmt: skip
    for name in ("env", "params"):
        assert (ours[name].opts, ours[name].default) == (stock[name].opts, stock[name].default)
        assert ours[name].callback is stock[name].callback
    assert list(ours["stage"].type.choices) == list(TUNED_STAGES) == list(MADE_BY)


@pytest.mark.parametrize("kind", [RunCommand, TuneCommand])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunInterruptedError("interrupted in x")])
def test_an_interruption_ends_in_one_line(kind, error, tmp_path):
    def interrupt():
        raise error

    with chdir(tmp_path):
        result = CliRunner().invoke(kind(name="command", callback=interrupt))
    assert result.exit_code == 130
    assert result.output.startswith("interrupted")
    assert result.output.endswith("; the same command goes on from here\n")


def test_a_termination_ends_as_an_interruption_does(tmp_path):
    def command():
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with chdir(tmp_path):
            result = CliRunner().invoke(RunCommand(name="command", callback=command))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.output == "interrupted; the same command goes on from here\n"


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments)
    return caught.value


def test_value_error_of_this_package_is_the_users():
    assert is_user_error(raised(log_loss, [1.0], [1.0, 0.0]))


def test_value_error_of_another_library_is_a_fault_of_ours():
    assert not is_user_error(raised(json.loads, "{"))
    assert not is_user_error(raised(int, "x") if False else raised({}.__getitem__, "x"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ParameterError("seed: ..."), True),
        (FileNotFoundError("ratings.csv"), True),
        (OSError(28, "No space left on device"), True),
        (DatasetError("sha256"), True),
        (TypeError("a bug"), False),
        (KeyError("a bug"), False),
        (AssertionError(), False),
    ],
)
def test_kinds_of_errors(error, expected):
    assert is_user_error(error) is expected


def test_wrapped_error_counts_as_its_cause_and_says_its_message():
    wrapped = DatasetError("table: Failed while saving data to dataset ParquetDataset(...)")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert is_user_error(wrapped)
    assert explain(wrapped) == "table: [Errno 28] No space left on device"
    wrapped.__cause__ = TypeError("a bug")
    assert not is_user_error(wrapped)


def test_command_line_without_a_kedro_command():
    from clickprompt.__main__ import main

    assert callable(main)
    assert isinstance(run, click.Command)
