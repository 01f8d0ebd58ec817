"""What the paper lets one expect, and what the studies show of it."""

from __future__ import annotations

import pytest

from benchmarks.report_studies import _by_length, _by_size, _expectations


def compared(verdict, difference, *, metric="auc", basis="seeds", **labels):
    return {
        "labels": {"ctr": "DNN", "fusion": "without prompts"} | labels,
        "with": {"ctr": "DNN", "fusion": "full"},
        "metric": metric,
        "seeds": [0, 1],
        "difference": difference,
        "verdict": verdict,
        "basis": basis,
        "p_value_holm": 0.25,
        "row_p_value_holm": 0.5,
    }


@pytest.mark.parametrize(
    ("verdict", "difference", "said"),
    [
        ("worse", -0.01, "shown"),
        ("better", 0.01, "opposite"),
        ("not shown", 0.01, "not shown"),
    ],
)
def test_an_ablation_is_expected_to_be_worse(verdict, difference, said):
    comparisons = [
        compared(verdict, difference),
        compared(verdict, difference, metric="log_loss"),
        compared(verdict, difference, fusion="another"),
    ]
    found = list(_expectations({"knowledge_fusion": {"comparisons": comparisons}}))
    assert found[2:] == [
        "| without prompts is worse | knowledge_fusion | DNN without prompts against DNN full "
        f"| 2 | {difference:+.4f} | 0.2500 | {said} |"
    ]


def test_with_one_seed_the_test_on_rows_counts():
    entry = compared("worse", -0.01, basis="rows")
    (line,) = list(_expectations({"knowledge_fusion": {"comparisons": [entry]}}))[2:]
    assert "| 0.5000 |" in line


def test_gains_in_the_tail_are_those_of_clickprompt():
    contrasts = [
        {
            "labels": {"model": name},
            "with": {"model": "DCNv2"},
            "seeds": 5,
            "difference": 0.002,
            "p_value_holm": 0.01,
            "verdict": "larger",
        }
        for name in ("FM", "ClickPrompt with PLM")
    ]
    (line,) = list(_expectations({"performance": {"tail_contrasts": contrasts}}))[2:]
    assert "ClickPrompt with PLM against DCNv2 | 5 | +0.0020 | 0.0100 | shown |" in line


def test_sizes_of_the_plm_are_compared_on_the_same_seeds():
    entries = [
        {
            "labels": {"ctr": "DNN", "plm": plm, "model": "clickprompt_with_plm"},
            "with": {"ctr": "DNN", "plm": other, "model": against},
            "metric": metric,
            "seeds": list(range(len(differences))),
            "differences": differences,
        }
        for plm, other, against, metric, differences in [
            ("minilm_2", "–", "backbone", "auc", [0.5, 0.5]),
            ("minilm_2", "minilm_2", "clickprompt_without_plm", "auc", [-0.001, 0.5]),
            ("minilm_2", "minilm_2", "clickprompt_without_plm", "log_loss", [0.5, 0.5]),
            ("minilm_4", "minilm_2", "clickprompt_without_plm", "auc", [0.5]),
            ("minilm_4", "minilm_4", "clickprompt_without_plm", "auc", [0.002]),
        ]
    ]
    alone = {"metric": "auc", "with": {"ctr": "DNN", "plm": "–", "model": "backbone"}}
    entries += [
        alone
        | {
            "labels": {"ctr": "DNN", "plm": plm, "model": "clickprompt_without_plm"},
            "seeds": [0],
            "differences": [difference],
        }
        for plm, difference in (("minilm_2", 0.003), ("minilm_6", 0.004))
    ]
    said = _by_size({"compatibility": {"comparisons": entries}})
    assert "the backbone: DNN +0.0030 with 2 layers, +0.0040 with 6 layers (1 seed)." in said
    assert "DNN -0.0010 with 2 layers, +0.0020 with 4 layers (1 seed)." in said
    assert "0.5" not in said
    assert "is not known" in _by_size({"compatibility": {"comparisons": entries[:3]}})


def per_minute(*lines):
    keys = ("layers", "prompts", "epochs", "minutes", "test_auc", "seeds")
    return {"summary": [dict(zip(keys, line, strict=True)) for line in lines]}


def test_what_longer_pretraining_is_worth_is_a_mean_over_the_prompts():
    backbone = (0, None, 0, 0.0, 0.80, 1)
    once, twice = (2, 1, 1, 1.0, 0.81, 1), (2, 1, 2, 2.0, 0.83, 1)
    said = _by_length(per_minute(backbone, once, (2, 5, 1, 1.0, 0.79, 1), twice))
    assert "1 seed, mean" in said
    assert "2 layers +0.0000 after 1 epoch, +0.0300 after 2 epochs." in said
    assert "grows" in said


def test_a_gain_that_does_not_grow_is_not_said_to():
    backbone = (0, None, 0, 0.0, 0.80, 1)
    said = _by_length(per_minute(backbone, (2, 1, 1, 1.0, 0.83, 1), (2, 1, 2, 2.0, 0.81, 1)))
    assert "grows" not in said
