"""Published anchors: the band tells pass from fail; the command runs on files of that format."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks import anchors, backbones, report, report_backbones, results
from benchmarks.backbones import Grid
from benchmarks.conversion import write_raw_files
from benchmarks.project import base_parameters
from benchmarks.report_backbones import PUBLISHED, band_table, outside_the_band

TINY = {
    "ctr_sizes": {"fm": {"embedding_size": 4}, "dcn": {"embedding_size": 4, "hidden_sizes": [8]}},
    "backbone": {"epochs": 1, "batch_size": 512},
    "training": {"precision": "float32", "device": "cpu"},
}


def made_up(**auc: float) -> dict:
    """A result with a mean AUC for each model."""
    summary = [
        {
            "model": model, "auc": value, "auc_deviation": 0.0003, "valid_auc": value,
            "log_loss": 0.38, "log_loss_deviation": 0.0002, "parameters": 60_000, "seconds": 70.0,
        }
        for model, value in auc.items()
    ]  # fmt: skip
    pairs = [(rate, decay) for rate in (1e-3, 2e-3) for decay in (1e-6, 1e-5)]
    return {
        "machine": "a machine",
        "date": "2026-01-01",
        "environment": "movielens_1m_anchors",
        "seeds": 5,
        "rows": 739_012,
        "precision": "bf16",
        "stage": {"epochs": 10, "batch_size": 1024},
        "grid": {"learning_rate": [1e-3, 2e-3], "weight_decay": [1e-6, 1e-5]},
        "chosen": {model: {"learning_rate": 1e-3, "weight_decay": 1e-6} for model in auc},
        "tuning": [
            {"model": model, "learning_rate": rate, "weight_decay": decay, "valid_auc": 0.8}
            for model in auc
            for rate, decay in pairs
        ],
        "summary": summary,
    }


def verdicts(table: str) -> dict[str, str]:
    """Model -> last column of the Markdown table in a text."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[-1] for row in cells}


def test_published_figures_are_those_of_the_method_page():
    page = (report.REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    section = page.split("## 10. ")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    header, aucs, log_losses = lines[0], lines[2], lines[3]
    assert (aucs[0], log_losses[0]) == ("AUC", "LogLoss")
    found = {
        name: (float(auc), float(log_loss))
        for name, auc, log_loss in zip(header[-6:], aucs[1:], log_losses[1:], strict=True)
    }
    names = {"AutoInt": "autoint_without_deep", "AutoInt+": "autoint"}
    assert {names.get(n, n.lower()): figures for n, figures in found.items()} == PUBLISHED


def test_at_the_lower_end_of_the_band_and_above_is_a_pass():
    low = {model: round(auc - 0.004, 4) for model, (auc, _) in PUBLISHED.items()}
    for found in (low, dict.fromkeys(PUBLISHED, 0.95)):
        assert outside_the_band(made_up(**found)) == []
        assert set(verdicts(band_table(made_up(**found))).values()) == {"pass"}


@pytest.mark.parametrize("model", PUBLISHED)
def test_just_below_the_band_fails_that_model_alone(model):
    found = {name: auc for name, (auc, _) in PUBLISHED.items()}
    found[model] -= 0.00401
    assert outside_the_band(made_up(**found)) == [model]
    failed = [
        name for name, said in verdicts(band_table(made_up(**found))).items() if said != "pass"
    ]
    assert failed == [report_backbones.NAMES[model]]
    assert verdicts(band_table(made_up(**found)))[failed[0]] == "FAIL"


def test_models_without_a_published_figure_or_not_run_are_no_failure():
    result = made_up(dnn=0.5, fm=0.83)
    assert outside_the_band(result) == []
    said = verdicts(band_table(result))
    assert said.pop("FM") == "pass"
    assert set(said.values()) == {"not run"}


def test_the_table_shows_published_beside_found():
    (line,) = [line for line in band_table(made_up(fm=0.8260)).splitlines() if "| FM |" in line]
    assert line == "| FM | 0.8252 | 0.8260 ± 0.0003 | +0.0008 | 0.3998 | 0.3800 ± 0.0002 | pass |"


def test_the_section_says_rows_grid_and_environment():
    section = report_backbones.anchors_section(made_up(fm=0.83, dnn=0.84))
    assert "739,012 rows" in section
    assert "`conf/movielens_1m_anchors`" in section
    assert "The same 4 pairs for every model, learning rate 0.001, 0.002" in section
    assert section.index("| DNN | 0.8400") < section.index("| FM | 0.8300"), "best first"


@pytest.mark.parametrize(("auc", "code"), [(0.83, None), (0.82, 1)])
def test_the_report_ends_in_an_error_where_an_anchor_is_missed(tmp_path, monkeypatch, auc, code):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("no marks")
    (tmp_path / "anchors.json").write_text(json.dumps(made_up(fm=auc)))
    if code:
        with pytest.raises(SystemExit, match="outside of the band of the published anchors: fm"):
            report.main()
    else:
        report.main()
    assert "## Published anchors on MovieLens-1M" in (tmp_path / "results.md").read_text()


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder of its own for all that the command writes."""
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "machine_line", lambda: "a machine")
    monkeypatch.setattr(anchors, "REPOSITORY", tmp_path)
    return tmp_path


def test_missing_files_end_it_before_any_work(work):
    (work / "users.dat").write_text("")
    with pytest.raises(SystemExit) as stopped:
        anchors.main(["--raw", str(work)])
    assert stopped.value.code == (
        f"ratings.dat, movies.dat must lie in {work}, got no such files; get it from "
        "https://grouplens.org/datasets/movielens/1m/ (ml-1m.zip). Without these files, "
        "`python -m benchmarks.backbones` compares all backbones on the embedded data."
    )
    with pytest.raises(SystemExit, match=f"must lie in {work}/data/01_raw/movielens_1m, got no"):
        anchors.main([])
    assert [path.name for path in work.iterdir()] == ["users.dat"]


def labelled(folder) -> int:
    lines = (folder / "ratings.dat").read_text().splitlines()
    return sum(line.split("::")[2] != "3" for line in lines)


def test_other_files_than_the_published_ones_end_it(work):
    write_raw_files(work, ratings=300)
    rows = labelled(work)
    with pytest.raises(SystemExit, match=f"must be 739,012, got {rows}: these are not the pub"):
        anchors.main(["--raw", str(work)])
    assert not (work / "results").exists()


def test_the_whole_command_on_files_of_that_format(work, monkeypatch, capsys):
    """Ratings are random, so AUC is near 0.5: the made-up figures decide what passes."""
    write_raw_files(work, ratings=1500)
    rows = labelled(work)
    changes = TINY | {
        "data": {"expected": {"labelled": rows}},
        "training": TINY["training"] | {"folder": str(work / "models")},
    }
    monkeypatch.setattr(anchors, "base_parameters", lambda env: base_parameters(env, changes))
    monkeypatch.setattr(anchors, "GRID", Grid(learning_rates=(1e-3, 4e-3), weight_decays=(1e-5,)))
    low, high = (0.1, 0.4), (0.9, 0.4)
    command = ["--raw", str(work), "--models", "fm", "dcn", "--seeds", "1", "--processes", "1"]

    monkeypatch.setattr(report_backbones, "PUBLISHED", {"fm": high, "dcn": low})
    with pytest.raises(SystemExit, match=r"^outside of the band: fm$"):
        anchors.main(command)
    said = verdicts(capsys.readouterr().out)
    assert said == {"FM": "FAIL", "DCN": "pass"}
    result = json.loads((work / "results" / "anchors.json").read_text())
    assert (result["environment"], result["rows"]) == ("movielens_1m_anchors", rows)
    assert [(row["model"], row["seed"]) for row in result["results"]] == [("fm", 0), ("dcn", 0)]
    assert len(result["tuning"]) == 4
    assert all(0 < row["auc"] < 1 and np.isfinite(row["log_loss"]) for row in result["results"])
    assert report_backbones.anchors_section(result)

    # the stages are there: no processes are needed that import torch again
    monkeypatch.setattr(backbones, "workers", ThreadPoolExecutor)
    monkeypatch.setattr(backbones, "worker_training", lambda training: training)
    monkeypatch.setattr(report_backbones, "PUBLISHED", {"fm": low, "dcn": low})
    anchors.main(command)
    said = verdicts(capsys.readouterr().out)
    assert said == {"FM": "pass", "DCN": "pass"}
    again = json.loads((work / "results" / "anchors.json").read_text())
    assert again["results"] == result["results"]


def test_the_environment_is_the_setting_of_the_paper():
    data = base_parameters(anchors.ENVIRONMENT).data
    assert {field.column for field in data.fields} == {
        "gender", "age", "occupation", "zip_code", "release_year", "timestamp", "genre",
    }  # fmt: skip
    assert (data.split.by, data.split.shares) == ("random", (8, 1, 1))
    assert (data.label.positive_from, data.label.negative_to) == (4, 2)
    assert data.expected_counts is not None
    assert data.expected_counts.labelled == 739_012
