"""The benchmarks of CTR models: their data, our side on tiny data, turns, ratios and pages.

The other libraries run in environments that the benchmark makes; no test installs them.
"""

from __future__ import annotations

import csv
import mmap
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks import ctr_cost, ctr_data, ctr_raw, ctr_speed, precision, report_ctr_speed
from benchmarks.measured import own_peak_mb
from benchmarks.peers import ctr_sizes as sizes
from benchmarks.peers import environments
from benchmarks.peers.turns import Worker
from benchmarks.project import REPOSITORY

ROWS = 3_000
SIDES = [f"{name} {precision}" for name, precision in ctr_speed.SIDES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clicks")
    ctr_data.write_files(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    from benchmarks.ctr_ours import Ours

    return Ours(folder)


# --- data ------------------------------------------------------------------------------


def test_the_table_has_the_fields_and_the_split():
    table = ctr_data.clicks(ROWS).to_pandas()
    assert list(table) == [*ctr_data.FIELDS, "label", "split"]
    assert tuple(ctr_data.FIELDS) == sizes.FIELDS
    assert table["split"].value_counts().to_dict() == {"train": 2400, "valid": 300, "test": 300}
    assert (table.groupby("movie_id")["title"].nunique() == 1).all()
    assert (table.groupby("user_id")[["gender", "age", "zip"]].nunique() == 1).all(axis=None)


def test_titles_differ_between_movies():
    assert len(set(ctr_data._titles())) == ctr_data.MOVIES


def test_the_same_seed_gives_the_same_table():
    assert ctr_data.clicks(ROWS, 1).equals(ctr_data.clicks(ROWS, 1))
    assert not ctr_data.clicks(ROWS, 1).equals(ctr_data.clicks(ROWS, 2))


def test_clicks_can_be_learnt_from_the_ids():
    """The share of clicks of a movie in train orders the rows of test better than chance."""
    from clickprompt.evaluation.metrics import auc

    table = ctr_data.clicks(60_000).to_pandas()
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    assert 0.75 < train["label"].mean() < 0.82
    share = train.groupby("movie_id")["label"].mean()
    score = test["movie_id"].map(share).fillna(train["label"].mean())
    assert auc(test["label"].to_numpy(), score.to_numpy()) > 0.6


def test_every_raw_format_holds_the_same_rows(folder):
    expected = ctr_data.clicks(ROWS).to_pandas().astype(str)
    whole = pd.read_csv(folder / "clicks.csv", dtype=str)
    pd.testing.assert_frame_equal(whole, expected)
    for split in ctr_data.SPLITS:
        part = expected[expected["split"] == split].drop(columns="split").reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_csv(folder / f"{split}.csv", dtype=str), part)
        with (folder / f"clicks.{split}.inter").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        assert header == [*(f"{name}:token" for name in sizes.FIELDS), "label:float"]
        assert rows == part.to_numpy().tolist()


def test_files_are_written_once(folder):
    before = (folder / "clicks.csv").stat().st_mtime_ns
    written = ctr_data.write_files(folder, ROWS)
    assert written == {"rows": ROWS, "split_rows": [2400, 300, 300]}
    assert (folder / "clicks.csv").stat().st_mtime_ns == before


def test_too_few_rows_are_an_error():
    with pytest.raises(ValueError, match="rows must be at least 10, got 9"):
        ctr_data.clicks(9)


# --- our side --------------------------------------------------------------------------


def test_ours_reads_all_rows_with_their_labels(ours, folder):
    table = pd.read_csv(folder / "clicks.csv")
    model_input = ours._input
    for split in ctr_data.SPLITS:
        part = table[table["split"] == split]
        assert model_input.labels[model_input.rows(split)].sum() == part["label"].sum()
    train = table[table["split"] == "train"]
    known = [train[name].nunique() + 1 for name in sizes.FIELDS]  # and out-of-vocabulary
    assert list(model_input.field_sizes) == known


def test_parameters_are_those_of_the_sizes(ours):
    width, hidden = len(sizes.FIELDS) * 32, 256
    deep = width * hidden + hidden + 2 * (hidden * hidden + hidden)
    rows = sum(ours._input.field_sizes)
    expected = {
        "deepfm": deep + hidden + 1 + rows + 1,
        "dcnv2": deep + 3 * (width * width + width) + width + hidden + 1,
        "autoint": deep + 3 * 3 * 32 * 32 + width + hidden + 1,
        "xdeepfm": deep + (64 + 200 + 200) * 25 + 75 + 75 + hidden + 1 + rows + 1,
    }
    for model, rest in expected.items():
        assert ours.parameters(model, "float32") == {"table": rows * 32, "rest": rest}


def test_training_changes_every_parameter_in_a_step_a_batch(ours, monkeypatch):
    from clickprompt.training import loop

    steps = []
    step = loop._step
    monkeypatch.setattr(
        loop, "_step", lambda *a, **k: steps.append(len(k["rows"])) or step(*a, **k)
    )
    model = ours.model("dcnv2", "float32")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert ours.train("dcnv2", "float32", 1500) > 0
    assert steps == [1024, 476]
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_turn_takes_the_first_train_rows_and_no_others(ours):
    from benchmarks.ctr_ours import first_rows

    part = first_rows(ours._input, 100)
    assert part.rows("train") == slice(0, 100)
    assert part.rows("valid") == part.rows("test") == slice(100, 100)
    np.testing.assert_array_equal(part.ids, ours._input.ids[:100])
    assert first_rows(ours._input, 10**6).rows("train") == ours._input.rows("train")


def test_inference_predicts_valid_and_test(ours):
    rows, seconds = ours.predict("autoint", "float32")
    assert rows == 600
    assert seconds > 0


def test_raw_to_trained_runs_through_reader_conversion_and_loop(folder):
    from benchmarks.ctr_ours import raw_to_trained

    result = raw_to_trained(folder, "deepfm", "float32")
    steps = result["seconds_by_step"]
    assert sum(steps.values()) == pytest.approx(result["seconds"], abs=0.01)
    assert 0 < result["valid_auc"] < 1
    assert not (folder / "model_input_raw").exists()


# --- turns -----------------------------------------------------------------------------

SIDE = """
import sys
from benchmarks.peers.turns import serve

class Side:
    def parameters(self, model, precision):
        print("noise of a library")
        return {"table": 1, "rest": 2}
    def train(self, model, precision, rows):
        return 0.5
    def predict(self, model, precision):
        if model == "broken":
            sys.exit("no such model")
        return 600, 0.25
    def versions(self):
        return {"torch": "2"}

serve(Side)
"""


@pytest.fixture
def worker(tmp_path):
    worker = Worker(
        [sys.executable, "-c", SIDE],
        folder=tmp_path,
        environment={"PYTHONPATH": str(REPOSITORY)},
        log=tmp_path / "log",
    )
    yield worker
    worker.stop()


def test_a_worker_answers_what_it_is_asked(worker, tmp_path):
    ask = {"model": "deepfm", "precision": "float32"}
    assert worker.ask("parameters", **ask) == {"table": 1, "rest": 2}
    assert worker.ask("train", rows=100, **ask) == {"rows": 100, "seconds": 0.5}
    assert worker.ask("predict", **ask) == {"rows": 600, "seconds": 0.25}
    assert worker.ask("versions") == {"torch": "2"}
    worker.stop()
    assert "noise" in (tmp_path / "log").read_text()


def test_a_worker_that_ends_says_why(worker):
    with pytest.raises(
        RuntimeError, match=r"(?s)must answer, but ended with code 1.*no such model"
    ):
        worker.ask("predict", model="broken", precision="float32")


class FakeSide:
    """Trains 1024 rows in so many seconds, each turn a little slower than the one before."""

    def __init__(self, name: str, seconds: float, log: list) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def ask(self, do: str, **request):
        if do == "parameters":
            return {"table": 1, "rest": 2}
        rows = request.get("rows", 200)
        self.log.append((self.name, request["precision"], do, rows))
        self.seconds *= 1.01
        return {"rows": rows, "seconds": self.seconds * rows / 1024}


def test_sides_take_turns_and_the_quickest_counts():
    log: list = []
    names = ("ours", *ctr_speed.LIBRARIES)
    sides = {name: FakeSide(name, 0.02 * (n + 1), log) for n, name in enumerate(names)}
    written = {"split_rows": [1024 * 100, 100, 100]}
    cells = ctr_speed.take_turns(sides, "deepfm", 3, written)
    assert [cell["side"] for cell in cells] == SIDES
    turns = [entry[:2] for entry in log if entry[2] == "predict"]
    warm_up = len(ctr_speed.SIDES)
    assert turns == [*ctr_speed.SIDES] * 4
    for cell in cells:
        assert len(cell["train_seconds"]) == len(cell["predict_seconds"]) == 3
        assert cell["train_rows_per_second"] == round(
            cell["train_rows"] / min(cell["train_seconds"])
        )
        assert cell["train_seconds"][0] < cell["train_seconds"][2]
    trained = [entry[3] for entry in log if entry[2] == "train"]
    assert trained[: 2 * warm_up] == [20 * 1024] * (2 * warm_up)
    assert set(trained[2 * warm_up :]) <= {n * 1024 for n in range(20, 101)}


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [(0.2, 400), (0.01, 577.35), (60.0, 20)],
    ids=["4 seconds at 100 steps a second", "an epoch at most", "not fewer steps than warm-up"],
)
def test_rows_of_a_turn(seconds, rows):
    assert ctr_speed.rows_of_turn(20 * 1024, seconds, 591_206) == int(rows * 1024)


def cells(model: str = "deepfm") -> list[dict]:
    train = dict(zip(SIDES, (120, 240, 60, 80, 70, 90), strict=True))
    predict = dict(zip(SIDES, (400, 900, 200, 290, 250, 280), strict=True))
    return [
        {
            "model": model,
            "side": side,
            "parameters": {"table": 1000 + n, "rest": 10 + n},
            "train_rows_per_second": train[side] * 1000,
            "predict_rows_per_second": predict[side] * 1000,
        }
        for n, side in enumerate(SIDES)
    ]


def test_ratios_name_both_precisions_and_the_rival():
    result = ctr_speed.summary([*cells("dcnv2"), *cells("deepfm")])
    assert result["models"] == ["deepfm", "dcnv2"]
    found = {(e["model"], e["phase"], e["ours"], e["against"]): e for e in result["ratios"]}
    assert len(found) == 16
    assert found["deepfm", "train", "float32", "float32"]["fastest"] == "recbole float32"
    assert found["deepfm", "train", "float32", "float32"]["ratio"] == 1.5
    assert found["deepfm", "train", "bf16", "any precision"]["fastest"] == "recbole bf16"
    assert found["deepfm", "train", "bf16", "any precision"]["ratio"] == pytest.approx(2.667)
    assert found["dcnv2", "predict", "bf16", "float32"]["ratio"] == pytest.approx(3.103)


def test_only_results_of_this_machine_and_size_are_kept(tmp_path, monkeypatch):
    from benchmarks import results

    for module in (results, ctr_speed):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert ctr_speed.measured_before("ctr_speed", ROWS) == {}
    path = results.write_result("ctr_speed", {"rows": ROWS, "models": ["deepfm"]})
    assert ctr_speed.measured_before("ctr_speed", ROWS)["models"] == ["deepfm"]
    assert ctr_speed.measured_before("ctr_speed", ROWS + 1) == {}
    path.write_text(path.read_text().replace('"machine": "', '"machine": "another '))
    assert ctr_speed.measured_before("ctr_speed", ROWS) == {}


def test_measured_models_are_not_measured_again(tmp_path, monkeypatch):
    from benchmarks import results

    for module in (results, ctr_speed):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    known = {"rows": ROWS, **ctr_speed.summary(cells())}
    results.write_result("ctr_speed", known)
    monkeypatch.setattr(ctr_speed, "workers", lambda *_: pytest.fail("nothing is to be measured"))
    result = ctr_speed.run(["deepfm"], rows=ROWS, work=tmp_path)
    assert result["ratios"] == known["ratios"]


def test_an_unknown_model_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"model must be one of deepfm, .*, got 'fm'"):
        ctr_speed.run(["fm"], work=tmp_path)
    with pytest.raises(ValueError, match=r"model must be one of fm, .*, got 'gbdt'"):
        ctr_cost.run(["gbdt"], work=tmp_path)


def test_every_library_has_pins_and_the_same_torch():
    for library in ctr_speed.LIBRARIES:
        pins = (environments.REQUIREMENTS / f"{library}.txt").read_text(encoding="utf-8")
        assert f"{report_ctr_speed.PACKAGES[library]}==" in pins
        assert "torch==2.13.0" in pins
        assert library in report_ctr_speed.LIBRARIES
        assert (environments.REQUIREMENTS.parent / f"train_{library}.py").exists()


def test_torch_comes_from_a_folder_a_page_or_where_pip_finds_it(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_WHEELS", raising=False)
    assert environments.pip_options() == []
    assert environments.pip_options(str(tmp_path)) == ["--find-links", str(tmp_path)]
    monkeypatch.setenv("TORCH_WHEELS", "http://localhost/cpu")
    assert environments.pip_options() == ["--extra-index-url", "http://localhost/cpu"]


# --- raw, cost, precision --------------------------------------------------------------


def raw_result() -> dict:
    found = {
        "ours float32": [(8.0, 12.0, 0.71), (7.0, 13.0, 0.71)],
        "ours bf16": [(5.0, 10.0, 0.71), (6.0, 9.0, 0.71)],
        "recbole float32": [(14.0, 20.0, 0.7), (15.0, 18.0, 0.7)],
        "deepctr float32": [(21.0, 24.0, 0.72), (20.0, 26.0, 0.72)],
    }
    keys = ("seconds", "wall_seconds", "valid_auc")
    return ctr_raw.summary(
        {side: [dict(zip(keys, run, strict=True)) for run in runs] for side, runs in found.items()}
    )


def test_raw_ratios_are_of_the_quickest_runs():
    result = raw_result()
    found = {(entry["of"], entry["ours"]): entry for entry in result["ratios"]}
    assert found["seconds", "ours float32"]["ratio"] == 2.0
    assert found["seconds", "ours bf16"]["ratio"] == 2.8
    assert found["wall_seconds", "ours bf16"]["ratio"] == 2.0
    assert {entry["fastest"] for entry in found.values()} == {"recbole float32"}


def test_the_peak_starts_again_at_the_present_size():
    with mmap.mmap(-1, 320 << 20) as block:  # not from malloc, which may keep what is freed
        block[:: mmap.PAGESIZE] = bytes(len(block) // mmap.PAGESIZE)
        high = own_peak_mb()
    ctr_cost.reset_peak()
    assert own_peak_mb() < high - 250


def test_cost_of_a_model_on_tiny_data(ours, folder):
    cell = ctr_cost.measure(folder, "fm", "float32")
    assert cell["parameters"] == ours.parameters("fm", "float32")
    assert cell["memory_mb"] >= 0
    assert cell["steps"] == 3  # an epoch
    assert cell["epoch_seconds"] == pytest.approx(2400 / cell["train_rows_per_second"], rel=0.1)
    assert cell["predict_rows_per_second"] > 0


def test_the_difference_of_precisions_is_paired_by_seed():
    auc = {"float32": [0.70, 0.72, 0.71, 0.73], "bf16": [0.7002, 0.7201, 0.7103, 0.7303]}
    results = [
        {"model": "deepfm", "seed": seed, "precision": name, "test_auc": auc[name][seed]}
        for seed in range(4)
        for name in precision.PRECISIONS
    ]
    (entry,) = precision.compare(results)
    expected = ttest_rel(auc["bf16"], auc["float32"]).confidence_interval(0.95)
    assert entry["interval"] == pytest.approx([expected.low, expected.high], abs=1e-6)
    assert entry["difference"] == pytest.approx(0.000225, abs=1e-6)
    assert entry["within_tolerance"]
    for result in results:
        result["test_auc"] += 0.0004 * (result["precision"] == "bf16")
    assert not precision.compare(results)[0]["within_tolerance"]


def test_one_seed_has_no_deviation(tmp_path):
    with pytest.raises(ValueError, match="seeds must be at least 2, got 1"):
        precision.run(seeds=1, work=tmp_path)


# --- pages -----------------------------------------------------------------------------

ORIGIN = {"date": "d", "machine": "m", "rows": ROWS, "split_rows": [2400, 300, 300], "batch": 1024}


def test_the_speed_section_shows_rates_ratios_and_parameters():
    versions = {name: {package: "1"} for name, package in report_ctr_speed.PACKAGES.items()}
    result = {
        **ORIGIN,
        **ctr_speed.summary(cells()),
        "repeats": 5,
        "versions": {"ours": {"torch": "2"}, **versions},
        "matmul_gflops": {"float32": 200.0, "bf16": 400.0},
    }
    text = report_ctr_speed.speed_section(result)
    assert "| training | DeepFM |" in text
    assert "| ours, bf16 | 240,000 |" in text
    assert "| inference, ours bf16 / fastest in float32 | 3.10 (RecBole, float32) |" in text
    assert "| DeepCTR-Torch, float32 | 1,004 + 14 |" in text
    assert "FuxiCTR 1, RecBole 1, DeepCTR-Torch 1, torch 2." in text


def test_the_raw_section_says_what_is_compared():
    text = report_ctr_speed.raw_section({**ORIGIN, **raw_result(), "model": "deepfm", "repeats": 2})
    assert "| ours, float32 | 7.0 | 12.0 | 0.7100 |" in text
    assert "ours, bf16, without imports: 2.80 times as quick as RecBole, float32" in text
    assert "ours, bf16, with imports: 2.00 times as quick as RecBole, float32" in text


def test_the_cost_and_precision_sections_show_their_cells():
    cell = {
        "model": "fgcnn",
        "precision": "bf16",
        "parameters": {"table": 1000, "rest": 20},
        "memory_mb": 1234,
        "epoch_seconds": 3.04,
        "train_rows_per_second": 5000,
        "predict_rows_per_second": 90_000,
    }
    text = report_ctr_speed.cost_section({**ORIGIN, "cells": [cell]})
    assert "| FGCNN | bf16 | 1,000 + 20 | 1,234 | 3.0 | 5,000 | 90,000 |" in text
    entry = {
        "model": "xdeepfm",
        "auc_float32": 0.7,
        "auc_bf16": 0.7001,
        "difference": 0.0001,
        "interval": [-0.0002, 0.0004],
        "within_tolerance": True,
    }
    text = report_ctr_speed.precision_section(
        {**ORIGIN, "seeds": 5, "tolerance": 0.0005, "models": [entry]}
    )
    assert "| xDeepFM | 0.70000 | 0.70010 | +0.00010 | -0.00020 to +0.00040 | yes |" in text
