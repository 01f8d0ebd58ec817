"""Losses of the first 20 steps of pretraining and finetuning, float64, deterministic weights.

They hold the whole path (masks, batches, prompts, loss, optimiser, schedule) in place. A change
of a number must be meant, and the commit says why. To write the file again:

    python -m tests.training.golden_losses
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clickprompt.modality import ModelInput
from clickprompt.parameters import (
    FinetuneWithPLMParameters,
    MaskingParameters,
    PLMParameters,
    PretrainParameters,
    TrainingParameters,
)
from clickprompt.training import loop, parts, stages
from clickprompt.training.machine import choose_machine
from clickprompt.training.objectives import ClickObjective, MaskedTokenObjective
from tests.plm.tiny import fill_
from tests.training.tiny_run import CTR, PROMPTS, make_inputs

FILE = Path(__file__).resolve().parents[1] / "golden" / "losses.json"
STEPS = 20
RATES: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 24,
    "learning_rate_ctr": 1e-2,
    "learning_rate_prompts": 1e-2,
    "learning_rate_plm": 5e-3,
    "learning_rate_head": 1e-2,
    "weight_decay": 1e-3,
    "schedule": "cosine",
    "warmup": 0.1,
    "clip_norm": 1.0,
}


def losses(model_input: ModelInput, plm: PLMParameters) -> dict[str, list[float]]:
    """Mean loss of each step."""
    machine = choose_machine(TrainingParameters(precision="float32", device="cpu"))
    shared: dict[str, Any] = {
        "model_input": model_input,
        "machine": machine,
        "batch_size": RATES["batch_size"],
        "evaluation_batch_size": 64,
        "seed": 7,
    }
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    ctr.head.requires_grad_(False)
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    pretraining = stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder),
    )
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    clicks = parts.ClickPromptForClicks(
        ctr=ctr, generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0), encoder=encoder
    )
    return {
        "pretrain": _run(
            pretraining,
            MaskedTokenObjective(**shared, masking=MaskingParameters()),
            PretrainParameters(**RATES),
        ),
        "finetune_with_plm": _run(
            clicks, ClickObjective(**shared, text=True), FinetuneWithPLMParameters(**RATES)
        ),
    }


def _run(model: nn.Module, objective: Any, stage: Any) -> list[float]:
    fill_(model.double())
    optimizer = loop.build_optimizer(model, stage)
    rates = [group["lr"] for group in optimizer.param_groups]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    accelerator = loop.Accelerator(cpu=True)
    found = []
    batches = objective.batches(0)
    for step in range(STEPS):
        factor = loop.rate_factor(step, total=2 * len(batches), stage=stage)
        loop.set_rates(optimizer, rates, factor)
        loss, count = loop._step(
            accelerator, model.train(), trained, optimizer, objective, stage,
            device=torch.device("cpu"),
            rows=batches[step % 3], position=(0, step), seed=7,
        )  # fmt: skip
        found.append(float(loss) / count)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps(losses(*make_inputs(Path(folder))), indent=1) + "\n")
