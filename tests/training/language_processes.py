"""Pretraining without prompts, started once or in two processes; the weights go to a file.

python -m torch.distributed.run --nproc-per-node 2 -m tests.training.language_processes INPUTS OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from clickprompt.modality import ModelInput
from clickprompt.models import ClickPromptForPretraining
from clickprompt.parameters import MaskingParameters, PLMParameters, PretrainParameters
from clickprompt.plm import MLMHead, load_encoder
from clickprompt.training import parts
from clickprompt.training.loop import fit
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import MaskedTokenObjective
from tests.training.tiny_run import CTR, training


def train(inputs: Path, folder: Path) -> dict[str, torch.Tensor]:
    model_input = ModelInput.open(inputs / "model_input")
    plm = PLMParameters(source=str(inputs / "plm"), keep_layers=None, dropout=0.0)
    machine = Machine(device=torch.device("cpu"), precision="float32")
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    ctr.requires_grad_(False)
    encoder = load_encoder(plm)
    head = MLMHead(encoder=encoder, generator=torch.Generator().manual_seed(0))
    model = ClickPromptForPretraining(ctr=ctr, generator=None, encoder=encoder, mlm_head=head)
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=MaskingParameters(),
        batch_size=64,
        evaluation_batch_size=64,
        seed=0,
        validation_rows=20,
        measured=("off",),
    )
    fit(
        name="language",
        model=model,
        objective=objective,
        # Rates so low that the order of sums in float32 stays below what Adam would amplify.
        stage=PretrainParameters(
            epochs=1, batch_size=64, learning_rate_plm=1e-4, learning_rate_head=1e-4
        ),
        training=training(folder),
        machine=machine,
        seed=0,
        folder=folder,
        row_numbers=model_input.row_numbers,
    )
    return model.state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[2])
    result = train(Path(sys.argv[1]), out / "run")
    rank = torch.distributed.get_rank()
    save_file({k: v.clone() for k, v in result.items()}, out / f"{rank}_of_2.safetensors")
