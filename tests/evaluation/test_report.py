"""The report: what is in it, what it is compared with, and what it refuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from clickprompt.evaluation import TrainFacts, evaluate_predictions
from clickprompt.evaluation.metrics import log_loss
from clickprompt.evaluation.significance import delong_test
from clickprompt.parameters import EvaluationParameters

MODELS = ["backbone", "clickprompt_without_plm", "clickprompt_with_plm"]
# The report that a changed frame is put into; the values do not matter there.
TRAIN = TrainFacts(0.6, 2, 1, 0.1, 0.1)


def _evaluate(predictions):
    return evaluate_predictions(predictions, EvaluationParameters(), TRAIN)


def _test_rows(predictions, model):
    return predictions[(predictions["model"] == model) & (predictions["split"] == "test")]


def test_report_is_plain_json(report, study_report):
    for one in (report, study_report):
        assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_results_rows(report, predictions):
    assert [row["model"] for row in report["results"]] == MODELS
    for row in report["results"]:
        frame = _test_rows(predictions, row["model"])
        expected = sklearn.metrics.roc_auc_score(frame["label"], frame["probability"])
        assert row["auc"] == pytest.approx(expected)
        assert row["log_loss"] == pytest.approx(log_loss(frame["label"], frame["probability"]))
        assert (row["ctr"], row["seed"], row["rows"]) == ("dcnv2", 0, 200)
        assert row["plm"] == (None if row["model"] == "backbone" else "minilm")


def test_improvements_are_over_the_backbone_of_the_same_ctr_model_and_seed(study_report):
    rows = study_report["results"]
    assert len(rows) == 18
    for row in rows:
        (backbone,) = [
            other
            for other in rows
            if other["model"] == "backbone"
            and (other["ctr"], other["seed"]) == (row["ctr"], row["seed"])
        ]
        if row is backbone:
            assert row["auc_improvement"] is None
            continue
        assert row["auc_improvement"] == pytest.approx(row["auc"] / backbone["auc"] - 1)
        better = 1 - row["log_loss"] / backbone["log_loss"]
        assert row["log_loss_improvement"] == pytest.approx(better)


def test_the_floor_is_the_cross_entropy_of_the_train_rate(report, predictions):
    floor = {row["split"]: row for row in report["metrics"] if row["model"] == "constant"}
    assert set(floor) == {"valid", "test"}
    share = _test_rows(predictions, "backbone")["label"].mean()
    expected = -share * math.log(0.6) - (1 - share) * math.log(0.4)
    assert floor["test"]["log_loss"] == pytest.approx(expected)
    assert floor["test"]["auc"] == 0.5
    assert floor["test"]["expected_calibration_error"] == pytest.approx(abs(share - 0.6))


def test_valid_is_in_the_metrics_and_not_in_the_results(report):
    splits = [(row["model"], row["split"]) for row in report["metrics"]]
    assert splits == [(m, s) for s in ("valid", "test") for m in ["constant", *MODELS]]


def test_comparisons_are_paired_on_the_row_whatever_its_order(report, predictions):
    shuffled = _evaluate(predictions.sample(frac=1, random_state=1))
    found = {row["model"]: row for row in shuffled["comparisons"]}
    for row in report["comparisons"]:
        other = found[row["model"]]
        assert row["auc"] == pytest.approx(other["auc"])
        assert row["log_loss"]["difference"] == pytest.approx(other["log_loss"]["difference"])
    first, second = (_test_rows(predictions, m).sort_values("row") for m in (MODELS[2], MODELS[0]))
    expected = delong_test(first["label"], first["probability"], second["probability"])
    assert found[MODELS[2]]["auc"]["p_value"] == pytest.approx(expected.p_value)


def test_two_comparisons_are_corrected_together(report):
    for metric in ("auc", "log_loss"):
        tests = [row[metric] for row in report["comparisons"]]
        low, high = sorted(tests, key=lambda one: one["p_value"])
        assert low["p_value_holm"] == pytest.approx(min(1, 2 * low["p_value"]))
        assert high["p_value_holm"] == pytest.approx(max(high["p_value"], low["p_value_holm"]))


def test_seeds_are_summed_up_and_compared_in_pairs(study_report):
    line = next(
        line
        for line in study_report["summary"]
        if (line["model"], line["ctr"]) == ("clickprompt_with_plm", "dnn")
    )
    values = {
        model: [
            row["auc"]
            for row in study_report["results"]
            if (row["model"], row["ctr"]) == (model, "dnn")
        ]
        for model in MODELS
    }
    assert line["seeds"] == 3
    assert line["auc"] == pytest.approx(np.mean(values["clickprompt_with_plm"]))
    assert line["auc_deviation"] == pytest.approx(np.std(values["clickprompt_with_plm"], ddof=1))
    (comparison,) = [
        row
        for row in study_report["seed_comparisons"]
        if (row["model"], row["ctr"]) == ("clickprompt_with_plm", "dnn")
    ]
    gaps = np.subtract(values["clickprompt_with_plm"], values["backbone"])
    assert comparison["auc"]["difference"] == pytest.approx(gaps.mean())
    assert comparison["auc"]["seeds"] == 3


def test_quadrants_of_a_model_add_up_to_its_test_rows(report):
    for model in MODELS:
        quadrants = [row for row in report["long_tail"] if row["model"] == model]
        assert len(quadrants) == 4
        assert sum(row["rows"] for row in quadrants) == 200


def test_backbone_alone_is_no_comparison(predictions):
    report = _evaluate(predictions[predictions["model"] == "backbone"])
    assert report["comparisons"] == report["seed_comparisons"] == []
    assert len(report["results"]) == 1


def test_without_backbone_there_is_no_improvement(predictions):
    report = _evaluate(predictions[predictions["model"] != "backbone"])
    assert [row["auc_improvement"] for row in report["results"]] == [None, None]


def test_one_class_in_test_is_undefined_and_not_an_error(predictions):
    report = _evaluate(predictions.assign(label=1))
    assert {row["auc"] for row in report["results"]} == {None}
    assert report["roc"] == []
    assert report["comparisons"][0]["auc"] is None
    assert report["comparisons"][0]["log_loss"] is not None
    assert report["seed_comparisons"][0]["auc"] is None
    json.dumps(report, allow_nan=False)


def test_missing_columns_are_named(predictions):
    with pytest.raises(ValueError, match=r"\['probability', 'plm'\] are missing"):
        _evaluate(predictions.drop(columns=["plm", "probability"]))


def test_an_unknown_split_is_named(predictions):
    with pytest.raises(ValueError, match="split must be 'valid' or 'test', got 'train'"):
        _evaluate(predictions.assign(split="train"))


def test_no_test_rows_are_named(predictions):
    with pytest.raises(ValueError, match="predictions must have test rows, got none"):
        _evaluate(predictions[predictions["split"] == "valid"])


def test_a_sample_twice_is_named(predictions):
    twice = pd.concat([predictions, predictions.iloc[[7]]])
    with pytest.raises(ValueError, match="got 21 twice for model backbone, ctr dcnv2, seed 0"):
        _evaluate(twice)


@pytest.mark.parametrize("change", ["rows", "labels"])
def test_models_of_other_samples_than_the_backbones_are_named(predictions, change):
    last = predictions.index[-1]
    if change == "rows":
        changed = predictions.drop(index=last)
    else:
        changed = predictions.copy()
        changed.loc[last, "label"] = 1 - changed.loc[last, "label"]
    message = "of model clickprompt_with_plm, ctr dcnv2, plm minilm, seed 0 must be of the backbone"
    with pytest.raises(ValueError, match=message):
        _evaluate(changed)
