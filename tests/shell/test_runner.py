"""The up-to-date runner against the promises of make."""

from __future__ import annotations

import json
import logging
import os

import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import ParquetDataset

from clickprompt.datasets import RawFilesDataset
from clickprompt.parameters import EvaluationParameters, PLMParameters
from clickprompt.runner import UpToDateRunner
from clickprompt.running import RunInterruptedError


class Project:
    """Raw file -> table (parquet) -> sum in memory -> report (JSON), and a node that shows it."""

    def __init__(self, folder):
        self.folder = folder
        self.runs: list[str] = []
        self.evaluation = EvaluationParameters()
        self.seed = 0
        self.error: BaseException | None = None
        (folder / "raw").mkdir()
        self.raw = folder / "raw" / "numbers.csv"
        self.raw.write_text("x\n1\n2\n")

    def run(self, *, runner=None, only=None):
        self.runs.clear()
        runner = runner or UpToDateRunner(stamps=str(self.folder / ".stamps.json"))
        pipeline = self.pipeline()
        if only:
            pipeline = pipeline.only_nodes(*only)
        runner.run(pipeline, self.catalog(), _create_hook_manager())
        return list(self.runs)

    def pipeline(self):
        return Pipeline(
            [
                Node(self.read, ["raw", "params:seed"], "table", name="read"),
                Node(self.total, "table", "sum", name="total"),
                Node(self.report, ["sum", "params:evaluation"], "report", name="report"),
                Node(self.show, "report", None, name="show"),
            ]
        )

    def catalog(self):
        return DataCatalog(
            {
                "raw": RawFilesDataset(
                    path=str(self.raw.parent), files={"numbers.csv": None}, published_at="nowhere"
                ),
                "table": ParquetDataset(filepath=str(self.folder / "table.parquet")),
                "report": JSONDataset(filepath=str(self.folder / "report.json")),
                "params:seed": MemoryDataset(self.seed),
                "params:evaluation": MemoryDataset(self.evaluation),
            }
        )

    def read(self, raw, seed):
        self.runs.append("read")
        return pd.read_csv(raw["numbers.csv"]) + seed

    def total(self, table):
        self.runs.append("total")
        return int(table["x"].sum())

    def report(self, total, evaluation):
        self.runs.append("report")
        if self.error:
            raise self.error
        return {"total": total, "tail": evaluation.tail_share}

    def show(self, report):
        self.runs.append("show")

    def written(self):
        return json.loads((self.folder / "report.json").read_text())


ALL = ["read", "total", "report", "show"]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def made(project):
    assert project.run() == ALL
    return project


def test_second_run_shows_but_makes_nothing(made, caplog):
    with caplog.at_level(logging.INFO, logger="clickprompt.runner"):
        assert made.run() == ["show"]
    skipped = [record.message for record in caplog.records if "up to date" in record.message]
    assert skipped == ["up to date: read", "up to date: total", "up to date: report"]


def test_what_is_wanted_is_made_though_it_lives_in_memory(made):
    stamps = str(made.folder / ".stamps.json")
    assert made.run(only=["read", "total"]) == []
    runner = UpToDateRunner(stamps=stamps, wanted=["sum"])
    assert made.run(runner=runner, only=["read", "total"]) == ["total"]


def test_sequential_runner_makes_all_again(made):
    from kedro.runner import SequentialRunner

    assert made.run(runner=SequentialRunner()) == ALL


def test_parameter_repeats_only_the_nodes_after_it(made):
    made.evaluation = EvaluationParameters(tail_share=0.2)
    # the sum lives in memory only, so it is made again for the report; the table is not
    assert made.run() == ["total", "report", "show"]
    assert made.written() == {"total": 3, "tail": 0.2}


def test_early_parameter_repeats_everything(made):
    made.seed = 10
    assert made.run() == ALL
    assert made.written()["total"] == 23
    made.seed = 0
    assert made.run() == ALL
    assert made.written()["total"] == 3


def test_changed_raw_file_repeats_everything_and_a_touched_one_nothing(made):
    status = made.raw.stat()
    os.utime(made.raw, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert made.run() == ["show"]
    made.raw.write_text("x\n5\n2\n")
    assert made.run() == ALL
    assert made.written()["total"] == 7


@pytest.mark.parametrize(
    ("file", "expected"),
    [("report.json", ["total", "report", "show"]), ("table.parquet", ["read", "show"])],
)
def test_deleted_output_is_made_again(made, file, expected):
    (made.folder / file).unlink()
    assert made.run() == expected
    assert (made.folder / file).exists()


def test_damaged_output_is_made_again(made):
    path = made.folder / "report.json"
    path.write_bytes(path.read_bytes()[:-3])
    assert made.run() == ["total", "report", "show"]
    assert made.written() == {"total": 3, "tail": 0.1}


def test_failed_node_is_not_stamped_and_goes_on_from_there(made):
    made.seed = 1
    made.error = ValueError("broken")
    with pytest.raises(ValueError, match="broken"):
        made.run()
    assert made.runs == ["read", "total", "report"]
    made.error = None
    assert made.run() == ["total", "report", "show"]
    assert made.written()["total"] == 5


def test_interruption_is_an_error_that_kedro_reports(made):
    made.seed, made.error = 1, KeyboardInterrupt()
    with pytest.raises(RunInterruptedError, match="interrupted in report"):
        made.run()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"table.parquet": 3}'])
def test_lost_or_damaged_stamps_cost_a_repetition(made, content):
    (made.folder / ".stamps.json").write_text(content)
    assert made.run() == ALL
    assert made.run() == ["show"]


def test_moved_project_stays_up_to_date(made, tmp_path_factory):
    new = tmp_path_factory.mktemp("moved") / "project"
    made.folder.rename(new)
    made.folder, made.raw = new, new / "raw" / "numbers.csv"
    assert made.run() == ["show"]


def test_part_of_the_pipeline_trusts_the_stamps_of_the_rest(made):
    assert made.run(only=["total", "report"]) == []
    made.evaluation = EvaluationParameters(tail_share=0.2)
    assert made.run(only=["total", "report"]) == ["total", "report"]
    assert made.run() == ["show"]


def test_other_version_of_the_package_repeats_everything(made, monkeypatch):
    monkeypatch.setattr("clickprompt.runner.__version__", "999")
    assert made.run() == ALL


def test_other_function_repeats_its_node_and_those_after_it(made, monkeypatch):
    def another(self, table):
        self.runs.append("another")
        return int(table["x"].max())

    monkeypatch.setattr(Project, "total", another)
    assert made.run() == ["another", "report", "show"]
    assert made.written()["total"] == 2


def test_local_language_model_counts_with_its_files(made, tmp_path):
    folder = tmp_path / "plm"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"first")
    made.evaluation = PLMParameters(source=str(folder))
    made.report = lambda total, plm: made.runs.append("report") or {"total": total}
    assert made.run() == ["total", "report", "show"]
    assert made.run() == ["show"]
    (folder / "model.safetensors").write_bytes(b"second")
    assert made.run() == ["total", "report", "show"]


def test_hooks_fire_for_what_runs_and_stay_silent_for_what_is_skipped(made):
    from kedro.framework.hooks import hook_impl

    class Watch:
        def __init__(self):
            self.seen = []

        @hook_impl
        def before_node_run(self, node):
            self.seen.append(("before", node.name))

        @hook_impl
        def after_dataset_saved(self, dataset_name):
            self.seen.append(("saved", dataset_name))

    watch, manager = Watch(), _create_hook_manager()
    manager.register(watch)
    made.evaluation = EvaluationParameters(tail_share=0.3)
    runner = UpToDateRunner(stamps=str(made.folder / ".stamps.json"))
    runner.run(made.pipeline(), made.catalog(), manager)
    assert watch.seen == [
        ("before", "total"),
        ("saved", "sum"),
        ("before", "report"),
        ("saved", "report"),
        ("before", "show"),
    ]
