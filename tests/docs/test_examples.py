"""Python blocks of the pages run on what a run leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import chdir

import pandas as pd
import pytest
import torch

from clickprompt.parameters import PLMParameters
from clickprompt.plm import load_encoder
from tests.docs.pages import PAGES, blocks
from tests.docs.test_readme import OWN_TABLE
from tests.serving.conftest import served_project  # noqa: F401

PYTHON_BLOCKS = [block for page in PAGES if page != OWN_TABLE for block in blocks(page, "python")]

# What the MLflow block finds: one finished run, as a run of the project logs it.
TRACKED_RUN = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment("clickprompt")
with mlflow.start_run(run_name="movielens_small dnn seed 1"):
    mlflow.log_param("ctr.name", "dnn")
    mlflow.log_metric("test_auc/clickprompt_with_plm", 0.75)
"""


OF_ITS_OWN = ("mlflow", "safetensors", "clickprompt.serving")
ON_PRODUCTS = [b for b in PYTHON_BLOCKS if not any(word in b.text for word in OF_ITS_OWN)]


@pytest.mark.parametrize("block", ON_PRODUCTS, ids=str)
def test_python_block(block, products, capsys):
    with chdir(products), pd.option_context("display.width", 250, "display.max_columns", None):
        exec(compile(block.text, str(block), "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert printed or "write_html" in block.text
    if "model" in block.text:
        assert "clickprompt_without_plm" in printed
        assert "clickprompt_with_plm" in printed


def test_figure_blocks_write_pages(products):
    pages = {
        page.stem: page.read_text() for page in (products / "data/08_reporting").glob("*.html")
    }
    assert set(pages) == {"data", "pretraining_prompt_attention"}
    assert "Tokens per sample" in pages["data"]
    assert "special tokens" in pages["pretraining_prompt_attention"]


def test_mlflow_block(tmp_path):
    """In a process of its own: MLflow keeps the tracking address in globals."""
    (block,) = (block for block in PYTHON_BLOCKS if "mlflow" in block.text)
    done = subprocess.run(
        [sys.executable, "-c", TRACKED_RUN + block.text],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "movielens_small dnn seed 1" in done.stdout
    assert "0.75" in done.stdout


def test_scoring_block(served_project, capsys):  # noqa: F811
    """On the bundles that a run of a quick project leaves."""
    (block,) = (block for block in PYTHON_BLOCKS if "clickprompt.serving" in block.text)
    with chdir(served_project):
        exec(compile(block.text, str(block), "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert "[None, None]" in printed
    assert "clickprompt_with_plm [0." in printed


def test_conversion_block(tmp_path):
    """A pickled checkpoint becomes one that loads, with the same weights."""
    from transformers import BertConfig, BertForMaskedLM

    (block,) = (block for block in PYTHON_BLOCKS if "safetensors" in block.text)
    folder = tmp_path / "data/plm/tinybert"
    folder.mkdir(parents=True)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
    model = BertForMaskedLM(BertConfig(**sizes, num_hidden_layers=2))
    model.config.save_pretrained(folder)
    # The decoder is the table of word embeddings: two names of one tensor.
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    plm = PLMParameters(source=str(folder), keep_layers=None)
    with pytest.raises(ValueError, match="pickle is never loaded"):
        load_encoder(plm)
    with chdir(tmp_path):
        exec(compile(block.text, str(block), "exec"), {"__name__": "example"})
    loaded = load_encoder(plm).model.state_dict()
    for name, weight in model.bert.state_dict().items():
        assert torch.equal(loaded[name], weight), name
