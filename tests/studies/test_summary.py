"""The statistics of a study against scipy, scikit-learn and plain loops, on written records."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from clickprompt.evaluation.long_tail import TrainFacts
from clickprompt.parameters import StudyParameters
from clickprompt.studies.cells import Cell, StudyError
from clickprompt.studies.page import findings, study_pages
from clickprompt.studies.plan import Estimates, different, left_line, plan, save_plan, saved_plan
from clickprompt.studies.records import CellRecord, Records
from clickprompt.studies.summary import _pooled, summarise_study
from clickprompt.studies.tables import study_tables

ROWS = 1200
SEEDS = (0, 1, 2, 3)
DATA = "d" * 64
STUDY = StudyParameters.model_validate(
    {
        "question": "Is good better?",
        "seeds": SEEDS,
        "compare_with": [{"model": "base"}],
        "axes": {
            "size": {"small": {}, "large": {}},
            "model": {"base": {"model": "backbone"}, "good": {"model": "backbone"},
                      "same": {"model": "backbone"}},
        },
    }
)  # fmt: skip
NOISE = {"base": 1.2, "good": 0.7, "same": 1.2}


def cell(size, model, seed):
    """The base does not depend on the size."""
    reads = {"ctr": {"name": model}, "size": None if model == "base" else size}
    return Cell({"size": size, "model": model}, seed, "backbone", {}, reads, "key")


@pytest.fixture(scope="module")
def test_rows():
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "row": np.arange(ROWS) * 3,
            "label": random.integers(0, 2, ROWS).astype(np.int8),
            "user_train_rows": random.integers(0, 20, ROWS),
            "item_train_rows": random.integers(0, 20, ROWS),
        }
    )


@pytest.fixture(scope="module")
def probabilities(test_rows):
    """(size, model, seed) -> of each row."""
    made = {}
    for size in ("small", "large"):
        for number, model in enumerate(NOISE):
            for seed in SEEDS:
                place = [number, seed, 0 if model == "base" else len(size)]
                random = np.random.default_rng(place)
                logits = test_rows["label"] * 2 - 1 + NOISE[model] * random.normal(size=ROWS)
                made[size, model, seed] = (1 / (1 + np.exp(-logits))).to_numpy(np.float32)
    return made


@pytest.fixture(scope="module")
def records(tmp_path_factory, test_rows, probabilities):
    """Written by hand, as another machine would have left them."""
    folder = tmp_path_factory.mktemp("studies")
    data = folder / "data" / DATA[:16]
    data.mkdir(parents=True)
    test_rows.to_parquet(data / "test_rows.parquet", index=False)
    facts = {"tail_share": 0.1, "label_rate": 0.5, "user_tail_limit": 4, "item_tail_limit": 4,
             "user_tail_share": 0.2, "item_tail_share": 0.2}  # fmt: skip
    (data / "facts.json").write_text(json.dumps(facts))
    (folder / "data" / "key.json").write_text(json.dumps({"digest": DATA}))
    for (size, model, seed), probability in probabilities.items():
        write(folder, cell(size, model, seed), probability, test_rows["label"])
    return Records(folder)


def write(folder, own, probability, labels, seconds=2.0):
    digest = own.digest(DATA)
    place = folder / "cells" / digest[:16]
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "probabilities.npy", probability)
    record = CellRecord(
        digest=digest, data_digest=DATA, model=own.model, seed=own.seed,
        parameters=dict(own.parameters),
        stages=[{"stage": "first", "digest": "f", "seconds": 10.0},
                {"stage": "backbone", "digest": digest, "seconds": seconds}],
        metrics={"test_auc": roc_auc_score(labels, probability),
                 "test_log_loss": sklearn_log_loss(labels, probability.astype(np.float64))},
        history=[], ctr="dnn", plm=None, parameter_counts={"ctr": 7}, plm_parameters=None,
        scored_rows_per_second=100.0, device="cpu", precision="float32", threads=1, processes=1,
        versions={}, ended=f"2026-01-01T00:00:0{own.seed}+00:00",
    )  # fmt: skip
    (place / "record.json").write_text(record.model_dump_json())


def all_cells():
    return [
        cell(size, model, seed) for seed in SEEDS for size in ("small", "large") for model in NOISE
    ]


@pytest.fixture(scope="module")
def summary(records):
    return summarise_study("s", STUDY, plan(all_cells(), records), records)


def test_each_model_is_one_row_whatever_labels_share_it(summary):
    assert [row["labels"] for row in summary["rows"]] == [
        {"size": "–", "model": "base"},
        {"size": "small", "model": "good"},
        {"size": "small", "model": "same"},
        {"size": "large", "model": "good"},
        {"size": "large", "model": "same"},
    ]
    assert summary["cells"] == {"all": 20, "finished": 20, "failed": 0}


def test_means_deviations_and_improvements(summary, probabilities, test_rows):
    labels = test_rows["label"]
    own = [roc_auc_score(labels, probabilities["large", "good", seed]) for seed in SEEDS]
    base = [roc_auc_score(labels, probabilities["small", "base", seed]) for seed in SEEDS]
    row = summary["rows"][3]
    assert row["auc"] == pytest.approx(np.mean(own))
    assert row["auc_deviation"] == pytest.approx(np.std(own, ddof=1))
    expected = {str(n): a / b - 1 for n, a, b in zip(SEEDS, own, base, strict=True)}
    assert row["auc_improvements"] == pytest.approx(expected)
    assert row["auc_improvement"] == pytest.approx(np.mean(list(expected.values())))
    assert row["seconds"] == 12.0


def test_comparisons_over_seeds(summary, probabilities, test_rows):
    labels = test_rows["label"]
    compared = [entry for entry in summary["comparisons"] if entry["metric"] == "auc"]
    assert [tuple(entry["labels"].values()) for entry in compared] == [
        ("small", "good"), ("small", "same"), ("large", "good"), ("large", "same"),
    ]  # fmt: skip
    p_values = []
    for entry in compared:
        size, model = entry["labels"].values()
        own = [roc_auc_score(labels, probabilities[size, model, seed]) for seed in SEEDS]
        base = [roc_auc_score(labels, probabilities["small", "base", seed]) for seed in SEEDS]
        test = stats.ttest_rel(own, base)
        interval = test.confidence_interval(0.95)
        assert entry["p_value"] == pytest.approx(test.pvalue)
        assert (entry["low"], entry["high"]) == pytest.approx((interval.low, interval.high))
        p_values.append(test.pvalue)
    order = np.argsort(p_values)
    worst = 0.0
    for place, number in enumerate(order):  # Holm, step by step
        worst = max(worst, min(1.0, (len(order) - place) * p_values[number]))
        assert compared[number]["p_value_holm"] == pytest.approx(worst)


def test_better_is_said_where_it_is_shown_and_nowhere_else(summary):
    verdicts = {
        tuple(e["labels"].values()): e["verdict"]
        for e in summary["comparisons"]
        if e["metric"] == "log_loss"
    }
    for entry in summary["comparisons"]:
        shown = entry["p_value_holm"] < 0.05
        up = (entry["difference"] > 0) == (entry["metric"] == "auc")
        assert entry["verdict"] == (("better" if up else "worse") if shown else "not shown")
        assert entry["basis"] == "seeds"
    assert verdicts["large", "good"] == "better"
    assert verdicts["large", "same"] == "not shown"
    said = [line for line in findings(summary) if " is better than " in line]
    assert all("good" in line for line in said)
    assert said


def test_rows_decide_where_there_is_one_seed(records):
    entries = plan([c for c in all_cells() if c.seed == 0], records)
    found = summarise_study("s", STUDY, entries, records)
    good = next(e for e in found["comparisons"] if e["labels"]["model"] == "good")
    assert good["p_value"] is None
    assert good["basis"] == "rows"
    assert good["low"] is None
    assert "(rows)" in study_tables(found)["comparisons"].markdown()


def test_the_long_tail_is_what_a_loop_over_rows_finds(summary, probabilities, test_rows):
    auc = {"tail": [], "rest": []}
    gains = {"tail": [], "rest": []}
    for seed in SEEDS:
        for part in ("tail", "rest"):
            rows = [
                n
                for n, row in enumerate(test_rows.itertuples())
                if (row.user_train_rows <= 4 or row.item_train_rows <= 4) == (part == "tail")
            ]
            labels = test_rows["label"].to_numpy()[rows]
            own = roc_auc_score(labels, probabilities["large", "good", seed][rows])
            base = roc_auc_score(labels, probabilities["small", "base", seed][rows])
            auc[part].append(own)
            gains[part].append(own - base)
    entry = summary["tail_contrasts"][2]
    assert tuple(entry["labels"].values()) == ("large", "good")
    assert entry["tail_gain"] == pytest.approx(np.mean(gains["tail"]))
    assert entry["rest_gain"] == pytest.approx(np.mean(gains["rest"]))
    assert entry["p_value"] == pytest.approx(stats.ttest_rel(gains["tail"], gains["rest"]).pvalue)
    quadrants = [e for e in summary["long_tail"] if e["labels"] == entry["labels"]]
    assert sum(quadrant["rows"] for quadrant in quadrants) == ROWS
    assert all(not math.isnan(quadrant["auc"]) for quadrant in quadrants)


def test_pages_hold_all_tables_and_need_no_network(summary):
    pages = study_pages(summary)
    assert json.loads(pages["summary.json"]) == summary
    assert pages["report.html"].count("<table>") == 4
    assert "<script src=" not in pages["report.html"]
    assert pages["tables.tex"].count(r"\begin{tabular}") == 4
    assert "_" not in pages["tables.tex"].replace(r"\_", "")


def test_an_unfinished_study_has_a_report_too(records):
    cells = [*all_cells(), cell("huge", "good", 0)]
    found = summarise_study("s", STUDY, plan(cells, records), records)
    assert found["cells"] == {"all": 21, "finished": 20, "failed": 0}
    assert "20 of 21 cells are finished." in study_pages(found)["report.md"]


def test_a_plan_is_kept_for_the_report(records):
    with pytest.raises(StudyError, match="must name a study that was run, got 'never'"):
        saved_plan("never", records)
    entries = plan(all_cells(), records)
    save_plan("s", STUDY, entries, records)
    declared, found = saved_plan("s", records)
    assert declared == STUDY
    assert summarise_study("s", declared, found, records) == summarise_study(
        "s", STUDY, entries, records
    )


def test_a_shared_stage_is_estimated_once(records):
    entries = plan(all_cells(), records)
    assert len(different(entries)) == 20
    known = Estimates(records.all())
    begun = [Cell({}, seed, "clickprompt_with_plm", {}, {}, "key") for seed in (0, 1)]
    assert known.seconds(begun) is None  # no such model was trained
    assert known.seconds([cell("small", "good", 0)]) == 2.0  # it starts from nothing
    assert left_line(entries, known, 1) == "nothing is left to train"


def test_facts_come_back_as_they_were(records):
    assert records.test_rows(DATA).facts == TrainFacts(0.5, 4, 4, 0.2, 0.2)


def test_facts_that_are_written_anew_are_read_anew(tmp_path):
    model_input = SimpleNamespace(
        digest=DATA,
        labels=np.array([1, 0, 1, 0, 1], np.int8),
        user_train_rows=np.array([1, 2, 2, 1, 0]),
        item_train_rows=np.array([2, 2, 1, 1, 2]),
        row_numbers=np.arange(5),
        rows=lambda split: np.arange(3) if split == "train" else np.array([4, 3]),
    )
    records = Records(tmp_path)
    records.save_data("key", model_input, 0.1)
    first = records.test_rows(DATA)
    assert list(first.rows["row"]) == [3, 4]
    assert records.test_rows(DATA) is first  # each comparison of a study asks for them
    records.save_data("key", model_input, 0.9)
    changed = records.test_rows(DATA).facts
    assert changed != first.facts
    assert changed == Records(tmp_path).test_rows(DATA).facts


def test_differences_are_pooled_over_independent_trainings_alone():
    def compared(ctr, model, part, differences, against="all"):
        sides = [{"ctr": ctr, "part": one, "model": model} for one in (part, against)]
        return {"labels": sides[0], "with": sides[1], "metric": "auc", "differences": differences}

    gaps = {"DNN": [-0.004, -0.002], "DCNv2": [-0.003, -0.005, -0.001]}
    comparisons = [compared(ctr, "with", "none", found) for ctr, found in gaps.items()]
    # Another model, alone as the one after it.
    comparisons += [compared("DNN", "without", "none", [-0.1, -0.1])]
    comparisons += [compared("FM", "with", "half", [0.001, 0.002])]
    (found,) = _pooled(comparisons, [])
    both = gaps["DNN"] + gaps["DCNv2"]
    expected = stats.ttest_1samp(both, 0.0)
    assert found["labels"] == {"part": "none"}
    assert found["with"] == {"part": "all"}
    assert found["over"] == ["ctr"]
    assert (found["groups"], found["pairs"]) == (2, 5)
    assert found["difference"] == pytest.approx(-0.003)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["p_value_holm"] == found["p_value"] < 0.05
    assert found["verdict"] == "worse"
    # Two comparisons are corrected for each other.
    more = [compared(ctr, "with", "half", found) for ctr, found in gaps.items()]
    first, second = _pooled([*comparisons, *more], [])
    assert second["pairs"] == 7
    assert second["p_value"] > 2 * first["p_value"]
    assert first["p_value_holm"] == pytest.approx(2 * expected.pvalue)
    assert second["p_value_holm"] == second["p_value"]
    # Of what starts from one pretraining there are no independent pairs.
    rows = [
        SimpleNamespace(labels={"ctr": ctr, "part": "all", "model": "with"}, stages={stage})
        for ctr, stage in (("DNN", "a"), ("DCNv2", "b"))
    ]
    assert _pooled(comparisons, rows) == _pooled(comparisons, [])
    rows[1].stages = {"a"}
    assert _pooled(comparisons, rows) == []
