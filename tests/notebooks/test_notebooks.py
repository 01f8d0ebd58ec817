"""The notebooks, executed in a small project: before any run, and after one and a study."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import chdir
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from sklearn.metrics import log_loss, roc_auc_score

from tests.end_to_end.project import QUICK, REPOSITORY, make_project, run

FOLDER = REPOSITORY / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("0*.ipynb"))
DATA, STEPS, RESULTS = NAMES
STUDY = {
    "question": "Does dropout help?",
    "seeds": [0],
    "compare_with": [{"ctr.dropout": 0.0}],
    "axes": {"ctr.dropout": [0.0, 0.3], "model": ["backbone"]},
}
SPLITS = ("train", "valid", "test")
WITHOUT, WITH = "clickprompt_without_plm", "clickprompt_with_plm"

# What the tests ask of the notebooks' variables.
ASKED = {
    DATA: (
        "{'splits': splits['rows'].to_dict(), 'texts': texts, 'same': same_tokens, "
        "'unseen': unseen['test'].to_dict(), 'users': int(popularity['user'].sum())}"
    ),
    STEPS: (
        "np.savez('steps.npz', logit=logit_SV['on'], target=batch.target_S, "
        "given=batch.token_ids_BN, whole=token_ids_BN, field=field_BN, z=z_with_B, zw=z_without_B, "
        "p=p_with_B, pw=p_without_B, label=label_B, numbers=model_input.row_numbers[rows], "
        "shares=together_LN, alpha=alpha, z_ctr=z_ctr_B, z_plm=z_plm_B) or "
        "{'loss': loss['on'], 'restored': accuracy['on'], 'with': loss_with, "
        "'without': loss_without, 'alike': indifferent, 'tokens': length}"
    ),
    RESULTS: (
        "{'auc': test_auc, 'same': same_side, 'rank': rank_correlation, 'groups': groups, "
        "'by_item': by_popularity['item', 'backbone'], "
        "'most': differing[['row', 'label', 'sentence']].to_dict('list')}"
    ),
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    project = make_project(
        tmp_path_factory.mktemp("project"),
        ratings=600,
        tracked=False,
        studies={"grids": {"tiny": STUDY}},
        serving={"log_model": False},
    )
    shutil.copytree(FOLDER, project / "notebooks")
    return project


@pytest.fixture(scope="module")
def project(fresh, tmp_path_factory) -> Path:
    from click.testing import CliRunner

    from clickprompt.cli import study

    finished = tmp_path_factory.mktemp("executed") / "project"
    shutil.copytree(fresh, finished, ignore=shutil.ignore_patterns("jupyter"))
    done = run(finished)
    assert done.exit_code == 0, done.output
    with chdir(finished):
        done = CliRunner().invoke(study, ["tiny"])
    assert done.exit_code == 0, done.output
    return finished


def execute(project: Path, start: str, asked: Mapping[str, str]) -> dict[str, tuple[list, Any]]:
    """Outputs of each notebook, and the value of an expression at its end.

    The kernel is this interpreter, whatever kernels are installed. One kernel for all saves the
    imports; each notebook starts without the names of the one before.
    """
    whole = nbformat.v4.new_notebook()
    edges = [0]
    for name in NAMES:
        whole.cells += nbformat.read(project / "notebooks" / name, as_version=4).cells
        expression = asked.get(name, "None")
        code = f"import json\nprint(json.dumps({expression}, default=lambda value: value.tolist()))"
        whole.cells.append(nbformat.v4.new_code_cell(code))
        edges.append(len(whole.cells))
        whole.cells[-1].source += "\n%reset -f"
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    assert manager.kernel_spec.argv[0] == sys.executable
    runtime = project / "jupyter"
    runtime.mkdir()
    manager.connection_file = str(runtime / "kernel.json")
    environment = os.environ | {
        "IPYTHONDIR": str(runtime),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "KEDRO_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    client = NotebookClient(whole, km=manager, timeout=120)
    client.execute(cwd=str(project / start), env=environment, cleanup_kc=True)
    found = {}
    for name, (first, last) in zip(NAMES, pairwise(edges), strict=True):
        parts = whole.cells[first:last]
        outputs = [output for cell in parts for output in cell.get("outputs", [])]
        value = json.loads(outputs.pop()["text"]) if name in asked else None
        found[name] = (outputs, value)
    return found


def text(outputs: list) -> str:
    """What is printed and displayed, without pictures."""
    shown = []
    for output in outputs:
        data = output.get("data", {})
        shown.append(output.get("text") or data.get("text/html") or data.get("text/plain", ""))
    return "\n".join(shown)


def pictures(outputs: list) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def executed(project):
    return execute(project, "notebooks", ASKED)


@pytest.fixture(scope="module")
def before(fresh):
    """Started in the project folder, before any run."""
    return execute(fresh, ".", {})


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_source_is_kept(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (DATA, ["interactions@frame, samples", "`kedro run --pipeline=modality_conversion`"]),
        (STEPS, ["model_input, pretrained", "`kedro run` makes them."]),
        (
            RESULTS,
            [
                "MLflow has no run of the experiment clickprompt yet: `kedro run` makes one.",
                "No study has finished cells here: `kedro study knowledge_fusion` runs one.",
                "clickprompt_with_plm_predictions. `kedro run` makes them.",
            ],
        ),
    ],
)
def test_before_any_run_a_sentence_says_what_to_do(fresh, before, name, sentences):
    outputs, _ = before[name]
    said = text(outputs)
    for sentence in sentences:
        assert sentence in said
    assert {output["output_type"] for output in outputs} == {"stream"}
    assert len(outputs) <= len(sentences)
    assert not (fresh / "mlflow.db").exists()


def test_the_data(project, executed):
    outputs, found = executed[DATA]
    samples = pd.read_parquet(project / "data/03_primary/samples.parquet")
    table = pd.read_parquet(project / "data/02_intermediate/interactions.parquet")
    rows = samples.merge(table, on="row", validate="1:1")
    raw = pd.read_csv(project / "data/01_raw/synthetic/ratings.csv")["rating"]
    assert sum(found["splits"].values()) == ((raw >= 4) | (raw <= 2.5)).sum() == len(rows)
    for number, split in enumerate(SPLITS):
        count = int((rows["split"] == number).sum())
        assert found["splits"][split] == count
        assert f">{count:,}</td>" in text(outputs)
    first = rows.iloc[0]
    assert found["texts"] == [
        f"user id is {first.user_id}. movie id is {first.movie_id}. "
        f"movie title is {first.movie_title}. genre is {first.genre.split('|')[0]}. "
        f"release year is {first.release_year}."
    ]
    assert found["texts"][0] in text(outputs)
    assert found["same"] is True
    train, test = (rows[rows["split"] == number] for number in (0, 2))
    for name, column in (("user id", "user_id"), ("movie id", "movie_id")):
        share = (~test[column].isin(train[column])).mean()
        assert found["unseen"][name] == pytest.approx(share)
    assert found["users"] == len(train)
    assert pictures(outputs) == 4


def test_clickprompt_step_by_step(project, executed):
    kept = project / "steps.npz"
    outputs, found = executed[STEPS]
    said = text(outputs)
    with np.load(kept) as stored:
        a = dict(stored)

    rows, width = a["whole"].shape
    fields, layers, heads, count = 5, 1, 2, QUICK["prompts"]["count"]
    assert rows == len(
        pd.read_parquet(project / "data/03_primary/samples.parquet").query("split==1")
    )
    size = fields * QUICK["ctr"]["embedding_size"] + QUICK["ctr"]["hidden_sizes"][-1]
    lines = {" ".join(line.split()) for line in said.splitlines()}
    assert {
        f"x_id_BF B = {rows}, F = {fields}",
        f"token_ids_BN B = {rows}, N = {width}",
        f"q_BD B = {rows}, D = {size}",
        f"key_BLAKd B = {rows}, L = {layers}, A = {heads}, K = {count}, d = 16",
        f"values_BLKH B = {rows}, L = {layers}, K = {count}, H = 32",
        f"pooled_BH B = {rows}, H = 32",
    } <= lines

    hidden = a["given"][:, :width] != a["whole"]
    assert 0 < hidden.sum() < (a["target"] >= 0).sum() < hidden.size
    assert (a["field"][hidden] >= 0).all()  # special tokens and padding are never masked
    logit = a["logit"][a["target"] >= 0].astype(np.float64)
    target = a["target"][a["target"] >= 0]
    chance = np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)
    nats = -np.log(chance[np.arange(len(target)), target]).mean()
    assert found["loss"] == pytest.approx(nats, rel=1e-4)
    assert f"{nats:.3f}" in said
    assert found["restored"] == pytest.approx((chance.argmax(axis=1) == target).mean())
    assert found["alike"] == pytest.approx(count / (count + found["tokens"]))
    assert ((a["shares"] > 0) & (a["shares"] < 1)).all()

    # The run itself has predicted these rows.
    for probability, logits, loss, name in (
        ("p", "z", "with", WITH),
        ("pw", "zw", "without", WITHOUT),
    ):
        saved = pd.read_parquet(project / f"data/07_model_output/{name}_predictions.parquet")
        saved = saved.set_index("row").loc[a["numbers"]]
        assert (saved["label"] == a["label"]).all()
        assert a[probability] == pytest.approx(saved["probability"].to_numpy(), abs=1e-5)
        assert a[probability] == pytest.approx(1 / (1 + np.exp(-a[logits].astype(np.float64))))
        assert found[loss] == pytest.approx(
            log_loss(saved["label"], saved["probability"]), rel=1e-3
        )
    joined = a["alpha"] * a["z_ctr"] + (1 - a["alpha"]) * a["z_plm"]
    assert joined == pytest.approx(a["z"], abs=1e-5)
    assert pictures(outputs) == 7


def test_the_results(project, executed):
    outputs, found = executed[RESULTS]
    said = text(outputs)
    saved = pd.read_parquet(project / "data/07_model_output/predictions.parquet")
    test = saved[saved["split"] == "test"]
    for name in ("backbone", WITHOUT, WITH):
        part = test[test["model"] == name]
        expected = roc_auc_score(part["label"], part["probability"])
        assert found["auc"][name] == pytest.approx(expected, abs=1e-12)
        assert f">{expected:.4f}</td>" in said
        assert f">{log_loss(part['label'], part['probability']):.4f}</td>" in said

    backbone = test[test["model"] == "backbone"]
    seen = 0
    for (_, low, high), value in zip(found["groups"], found["by_item"], strict=True):
        part = backbone[backbone["item_train_rows"].between(low, high - 1)]
        seen += len(part)
        if part["label"].nunique() == 2:
            assert value == pytest.approx(roc_auc_score(part["label"], part["probability"]))
    assert seen == len(backbone)

    both = test.pivot(index="row", columns="model", values="probability")
    assert found["same"] == ((both[WITH] >= 0.5) == (both[WITHOUT] >= 0.5)).mean()
    assert found["rank"] == pytest.approx(both[WITH].rank().corr(both[WITHOUT].rank()))
    table = pd.read_parquet(project / "data/02_intermediate/interactions.parquet").set_index("row")
    most = (both[WITH] - both[WITHOUT]).abs().nlargest(len(found["most"]["row"]))
    assert set(found["most"]["row"]) == set(most.index)
    for row, label, sentence in zip(*found["most"].values(), strict=True):
        at = table.loc[row]
        assert label == int(at["rating"] >= 4)
        assert sentence.startswith(f"user id is {at.user_id}. movie id is {at.movie_id}. ")

    assert "1 runs of the experiment clickprompt" in said
    assert "Study tiny: Does dropout help? 2 of 2 cells finished." in said
    records = list((project / "data/07_model_output/studies/cells").glob("*/record.json"))
    assert len(records) == 2
    for path in records:
        assert f">{json.loads(path.read_text())['metrics']['test_auc']:.4f}</td>" in said
    assert pictures(outputs) == 3
