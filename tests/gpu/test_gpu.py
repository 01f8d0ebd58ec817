"""What a GPU must do as the CPU does; run where there is one (``pytest -m gpu``)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from clickprompt.ctr import build_ctr
from clickprompt.parameters import CTRParameters, PLMParameters, StageParameters, TrainingParameters
from clickprompt.plm import load_encoder
from clickprompt.prompts import KeyValuePrompts
from clickprompt.training.machine import choose_machine
from clickprompt.training.optimizer import build_optimizer
from tests.plm.tiny import save_tiny
from tests.training.tiny_run import make_inputs, run_stages

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def test_auto_chooses_the_gpu_and_bf16():
    machine = choose_machine(TrainingParameters())
    assert (machine.device.type, machine.precision) == ("cuda", "bf16")


@pytest.mark.parametrize("kernel", ["sdpa", "matmul"])
def test_the_encoder_and_its_gradients_are_those_of_the_cpu(tmp_path, kernel):
    save_tiny(tmp_path, "bert")
    plm = PLMParameters(source=str(tmp_path), keep_layers=None, attention=kernel)
    found = []
    for device in ("cpu", "cuda"):
        encoder = load_encoder(plm).eval().double().to(device)
        generator = torch.Generator().manual_seed(0)
        token_ids_BN = torch.randint(5, 100, (6, 12), generator=generator).to(device)
        mask_BN = (torch.arange(12) < torch.tensor([12, 9, 7, 10, 3, 12])[:, None]).to(device)
        shape = (2, 6, encoder.layers, encoder.heads, 3, encoder.head_size)
        leaves = torch.randn(shape, generator=generator).double().to(device)
        prompts = [leaf.detach().requires_grad_() for leaf in leaves]
        at = (torch.tensor([0, 0, 2, 5]).to(device), torch.tensor([1, 4, 2, 11]).to(device))
        whole = encoder(token_ids_BN, mask_BN, KeyValuePrompts(*prompts))[mask_BN]
        chosen = encoder(token_ids_BN, mask_BN, KeyValuePrompts(*prompts), last_layer_at=at)
        (whole.square().sum() + chosen.square().sum()).backward()
        gradients = [p.grad for p in (*prompts, *encoder.parameters())]
        found.append([t.detach().cpu() for t in (whole, chosen, *gradients)])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


def test_a_sparse_table_takes_the_same_step():
    stage = StageParameters(
        epochs=1, batch_size=4, embedding_updates="batch_rows", weight_decay=0.01
    )
    tables = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        ctr = CTRParameters(name="dnn", embedding_size=4, hidden_sizes=(8,))
        model = torch.nn.ModuleDict({"ctr": build_ctr(ctr, (50, 60), (), generator=generator)})
        optimizer = build_optimizer(model.double().to(device), stage)
        for step in range(3):
            x_id_BF = torch.tensor([[1, 2], [1, 7], [step, 59], [49, 0]]).to(device)
            model["ctr"](x_id_BF).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tables.append(model["ctr"].embedding.weight.detach().cpu())
    torch.testing.assert_close(*tables, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Synthetic rows as a model input and a tiny encoder without dropout.

    The environment variable GPU_INPUTS may name a folder where `make_inputs` has made them, for a
    machine that lacks what reads tables.
    """
    folder = tmp_path_factory.mktemp("inputs")
    prepared = os.environ.get("GPU_INPUTS")
    if prepared:
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
    else:
        make_inputs(folder)
    config = folder / "plm" / "config.json"
    values = json.loads(config.read_text())
    values |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(values))
    return folder


def test_every_stage_learns_what_it_learns_on_the_cpu(inputs, tmp_path):
    """In float32 and without dropout what differs is the order of additions."""
    found = {}
    for device in ("cpu", "cuda"):
        reports = [
            json.loads((Path(folder) / "report.json").read_text())
            for folder in run_stages(inputs, tmp_path / device, device=device)
        ]
        assert {report["device"] for report in reports} == {device}
        found[device] = [epoch["train_loss"] for report in reports for epoch in report["history"]]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-3)


def test_bf16_stages_run_and_a_finished_one_is_found_again(inputs, tmp_path):
    first = run_stages(inputs, tmp_path, device="cuda", precision="bf16")
    again = run_stages(inputs, tmp_path, device="cuda", precision="bf16")
    assert first == again
    for folder in first:
        report = json.loads((Path(folder) / "report.json").read_text())
        assert (report["device"], report["precision"]) == ("cuda", "bf16")
