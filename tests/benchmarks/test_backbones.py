"""The comparison of the backbones on a small planted data set, and its section of the page."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean, stdev

import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from benchmarks import backbones, report_backbones, results
from benchmarks.backbones import Grid
from benchmarks.project import base_parameters
from clickprompt.modality import ModelInput
from clickprompt.parameters import CTR_MODELS
from clickprompt.synthetic import write_synthetic_ratings

MODELS = ["fm", "dcnv2", "autoint_without_deep"]
GRID = Grid(learning_rates=(1e-3, 1e-2), weight_decays=(1e-5,))
TINY = {
    "ctr_sizes": {
        "fm": {"embedding_size": 4},
        "dcnv2": {"embedding_size": 4, "hidden_sizes": [8], "cross_layers": 1},
        "autoint": {"embedding_size": 4, "attention_size": 4, "hidden_sizes": [8]},
    },
    "backbone": {"epochs": 2, "batch_size": 64},
    "training": {"precision": "float32", "device": "cpu"},
}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """What the command wrote, the folder of its work, and how to run it again."""
    folder = tmp_path_factory.mktemp("backbones")
    raw = write_synthetic_ratings(folder / "raw", users=40, movies=60, ratings=800)
    tiny = TINY | {"training": TINY["training"] | {"folder": str(folder / "models")}}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "FOLDER", folder / "results")
        patch.setattr(results, "machine_line", lambda: "a machine")
        patch.setattr(backbones, "REPOSITORY", folder)
        patch.setattr(backbones, "GRID", GRID)
        # processes of their own would each import torch; tests of benchmarks.anchors have them
        patch.setattr(backbones, "workers", ThreadPoolExecutor)
        patch.setattr(backbones, "embedded_files", lambda: raw.files)
        patch.setattr(backbones, "base_parameters", lambda env: base_parameters(env, tiny))

        def run():
            backbones.main(["--models", *MODELS, "--seeds", "2", "--processes", "1"])
            return json.loads((folder / "results" / "backbones.json").read_text())

        yield run(), folder, run
    torch.set_num_threads(threads)


def test_every_model_is_tried_with_every_pair_and_the_best_on_valid_is_chosen(comparison):
    result = comparison[0]
    pairs = [(1e-3, 1e-5), (1e-2, 1e-5)]
    assert (result["grid"]["learning_rate"], result["grid"]["weight_decay"]) == (
        [1e-3, 1e-2],
        [1e-5],
    )
    for model in MODELS:
        trials = [trial for trial in result["tuning"] if trial["model"] == model]
        assert [(t["learning_rate"], t["weight_decay"]) for t in trials] == pairs
        best = max(trials, key=lambda trial: trial["valid_auc"])
        assert result["chosen"][model] == {
            name: best[name] for name in ("learning_rate", "weight_decay")
        }


def test_nothing_of_test_is_kept_of_a_trial(comparison):
    for trial in comparison[0]["tuning"]:
        assert set(trial) == {
            "model", "learning_rate", "weight_decay", "best_epoch", "seconds", "valid_auc",
            "valid_log_loss",
        }  # fmt: skip


def test_results_are_those_of_the_predictions_of_the_chosen_stages(comparison):
    result, folder, _ = comparison
    stages = {}
    for place in (folder / "models" / "backbone").glob("*/result"):
        found = json.loads((place / "report.json").read_text())
        ctr, stage = found["parameters"]["ctr"], found["parameters"]["stage"]
        row = ctr["name"] if ctr["hidden_sizes"] else f"{ctr['name']}_without_deep"
        stages[row, found["seed"], stage["learning_rate_ctr"]] = place
    # two pairs each on seed 0, the chosen one on seed 1
    assert len(stages) == 3 * 3
    assert [(row["model"], row["seed"]) for row in result["results"]] == [
        (model, seed) for seed in (0, 1) for model in MODELS
    ]
    for row in result["results"]:
        place = stages[row["model"], row["seed"], result["chosen"][row["model"]]["learning_rate"]]
        predictions = pd.read_parquet(place / "predictions.parquet")
        for split, prefix in (("test", ""), ("valid", "valid_")):
            part = predictions[predictions["split"] == split]
            auc = roc_auc_score(part["label"], part["probability"])
            assert row[f"{prefix}auc"] == pytest.approx(auc)
            loss = log_loss(part["label"], part["probability"].astype(float))
            assert row[f"{prefix}log_loss"] == pytest.approx(loss, rel=1e-5)


def test_summary_is_mean_and_sample_deviation(comparison):
    for line in comparison[0]["summary"]:
        rows = [row for row in comparison[0]["results"] if row["model"] == line["model"]]
        for metric in ("auc", "log_loss", "valid_auc"):
            values = [row[metric] for row in rows]
            assert line[metric] == pytest.approx(fmean(values))
            assert line[f"{metric}_deviation"] == pytest.approx(stdev(values))


def test_references_are_the_backbone_of_clickprompt_and_the_best_on_valid(comparison):
    result = comparison[0]
    best = max(result["summary"], key=lambda row: row["valid_auc"])["model"]
    assert list(result["tests"]) == list(dict.fromkeys(["dcnv2", best]))
    for reference, tests in result["tests"].items():
        assert {test["model"] for test in tests} == set(MODELS) - {reference}


def test_a_second_run_trains_nothing(comparison, capsys):
    first, folder, run = comparison
    weights = {path: path.stat().st_mtime_ns for path in folder.glob("models/**/weights.*")}
    assert len(weights) == 3 * 3
    second = run()
    assert {p: p.stat().st_mtime_ns for p in folder.glob("models/**/weights.*")} == weights
    assert {k: v for k, v in second.items() if k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }
    shown = capsys.readouterr()
    assert "tuning 6 of 6: " in shown.err
    assert "seeds 6 of 6: " in shown.err
    assert shown.err.count("about 0:00 left") >= 2
    assert "test" not in shown.err, "progress speaks of valid only"
    assert "| DCNv2 |" in shown.out


def test_every_ctr_model_has_a_row_and_a_name():
    assert set(backbones.MODELS) == {*CTR_MODELS, "autoint_without_deep"}
    assert set(report_backbones.NAMES) == set(backbones.MODELS)


def test_time_left_is_that_of_the_same_model_where_it_is_known():
    def trial(model, seed):
        return backbones.Trial(model, 1e-3, 1e-5, seed)

    done = {
        trial("fm", 0): {"seconds": 2.0},
        trial("fm", 1): {"seconds": 4.0},
        trial("dnn", 0): {"seconds": 9.0},
    }
    left = [trial("fm", 2), trial("pnn", 0)]
    assert backbones._seconds(left, done) == pytest.approx(3.0 + 5.0)
    assert backbones._seconds([], done) == 0


def test_the_variant_differs_from_its_model_in_the_deep_part_only():
    parameters = base_parameters("base")
    plain = backbones.sizes("autoint", parameters)
    bare = backbones.sizes("autoint_without_deep", parameters)
    assert plain.hidden_sizes == (256, 256, 256)
    assert bare.hidden_sizes == ()
    assert bare.model_copy(update={"hidden_sizes": plain.hidden_sizes}) == plain


def diverging(limit):
    """A stand-in for training: diverges above a rate; a lower rate has the higher AUC."""

    def train(trial, parameters, folder):
        if trial.learning_rate > limit or trial.seed == 7:
            failed = {"metrics": None, "best_epoch": None, "seconds": 0.0, "diverged": "got nan"}
            return {**vars(trial), **failed}
        value = {"auc": 0.8 - trial.learning_rate, "log_loss": 0.4}
        metrics = {f"{split}_{name}": v for split in ("valid", "test") for name, v in value.items()}
        rest = {"best_epoch": 1, "parameters": 9, "precision": "bf16", "seconds": 1.0}
        return {**vars(trial), "metrics": metrics, **rest}

    return train


@pytest.mark.parametrize("seeds", [2, 8])
def test_a_diverged_trial_is_not_chosen_and_a_diverged_seed_is_an_error(
    comparison, monkeypatch, seeds
):
    folder = next(comparison[1].glob("data/05_model_input/*"))
    monkeypatch.setattr(backbones, "train", diverging(5e-3))
    given = {"models": ["fm"], "grid": GRID, "seeds": seeds, "processes": 1}
    parameters, model_input = base_parameters("base"), ModelInput.open(folder)
    if seeds == 8:
        with pytest.raises(ValueError, match=r"training of fm must not diverge .*, got: got nan"):
            backbones.compare(parameters, model_input, **given)
        return
    result = backbones.compare(parameters, model_input, **given)
    assert [trial["valid_auc"] for trial in result["tuning"]] == [0.799, None]
    assert result["chosen"]["fm"]["learning_rate"] == 1e-3
    section = report_backbones.backbones_section(
        {**result, "date": "2026-01-01", "machine": "a machine"}
    )
    assert "| 0.001 | 1e-05 | 0.7990 |\n| 0.01 | 1e-05 | diverged |" in section


def test_a_model_that_diverges_with_every_pair_is_an_error(comparison, monkeypatch):
    folder = next(comparison[1].glob("data/05_model_input/*"))
    monkeypatch.setattr(backbones, "train", diverging(0.0))
    with pytest.raises(ValueError, match="training of dnn must not diverge for all that was tried"):
        backbones.compare(
            base_parameters("base"), ModelInput.open(folder),
            models=["dnn"], grid=GRID, seeds=1, processes=1,
        )  # fmt: skip


def test_training_that_diverges_is_told_and_no_error(comparison, monkeypatch):
    from clickprompt.training import stages
    from clickprompt.training.divergence import DivergedError

    def diverge(**settings):
        raise DivergedError("the training loss of backbone must be finite, got nan")

    monkeypatch.setattr(stages, "train_backbone", diverge)
    folder = next(comparison[1].glob("data/05_model_input/*"))
    trial = backbones.Trial("fm", 1e-3, 1e-5, 0)
    entry = backbones.train(trial, base_parameters("base"), folder)
    assert entry["metrics"] is None
    assert "must be finite, got nan" in entry["diverged"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["fm", "dcnv3"]}, "a model must be one of fm, .*, got 'dcnv3'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ],
)
def test_wrong_values_stop_before_any_work(changes, message):
    with pytest.raises(ValueError, match=message):
        backbones.compare(
            None, None, **{"models": ["fm"], "grid": GRID, "seeds": 1, "processes": 1} | changes
        )


def test_other_data_are_refused(capsys):
    with pytest.raises(SystemExit):
        backbones.main(["--env", "movielens_1m"])
    assert "must be one of the embedded data, got 'movielens_1m'" in capsys.readouterr().err


def test_the_section_orders_by_auc_and_names_the_edges(comparison):
    section = report_backbones.backbones_section(comparison[0])
    result = comparison[0]
    order = sorted(result["summary"], key=lambda row: -row["auc"])
    table = section.split("| --- |", 1)[1]
    places = [table.index(f"| {report_backbones.NAMES[row['model']]} |") for row in order]
    assert places == sorted(places)
    assert "python -m benchmarks.backbones --seeds 2\n" in section
    assert "The same 2 pairs for every model, learning rate 0.001, 0.01" in section
    assert "no choice looked at test" in section
    # of two rates each is an edge
    for model, pair in result["chosen"].items():
        which = "smallest" if pair["learning_rate"] == 1e-3 else "largest"
        edges = section.split("Chosen at an edge of the grid: ")[1].split(". ")[0]
        (part,) = [p for p in edges.split("; ") if p.startswith(f"the {which} rate")]
        assert report_backbones.NAMES[model] in part
    assert "rate by" in section
    assert "decay by" not in section, "with one decay there is no edge"
