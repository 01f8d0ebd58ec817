"""Python blocks of the pages run on what a run leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import chdir

import pandas as pd
import pytest

from tests.docs.pages import PAGES, blocks
from tests.docs.test_readme import OWN_TABLE

PYTHON_BLOCKS = [block for page in PAGES if page != OWN_TABLE for block in blocks(page, "python")]

# What the MLflow block finds: one finished run, as a run of the project logs it.
TRACKED_RUN = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment("clickprompt")
with mlflow.start_run(run_name="movielens_small dnn seed 1"):
    mlflow.log_param("ctr.name", "dnn")
    mlflow.log_metric("clickprompt_with_plm/test_auc", 0.75)
"""


@pytest.mark.parametrize("block", [b for b in PYTHON_BLOCKS if "mlflow" not in b.text], ids=str)
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
