"""A PA-MLM pretraining step of this project against one in the style of the authors' code.

Both train the same weights (MiniLM, all 6 layers, DCNv2, K = 5, dropout 0.1) on the same rows
of the embedded data at batch 256, taking turns in one process:

- reference style: float32; every text is tokenised in the loop, row by row, and padded to the
  longest of the data set; the masked-language head runs on all positions of the full
  vocabulary; attention is torch's fused kernel;
- ours: bf16 where the machine has it; pieces tokenised once; text tokens packed, without padding;
  the head and the last layer on the selected positions only; softmax over the active vocabulary.

Before timing, both are shown to compute the same loss on one masked batch in float64. The
result also holds the machine's matrix-multiply rate and the share of it that our step's useful
arithmetic (matrix products of real tokens only) reaches.

    python -m benchmarks.pretraining_step
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

BATCH = 256
REFERENCE_STEPS = 3
OUR_STEPS = 30


def run() -> dict[str, Any]:
    """Time both kinds of step and give samples per second, their ratio and the arithmetic rate."""
    import torch

    from clickprompt.training.machine import choose_machine
    from clickprompt.training.objectives import MaskedTokenObjective

    parameters, model_input, sentences, tokenizer = _inputs()
    machine = choose_machine(parameters.training)
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=parameters.pretrain.masking,
        batch_size=BATCH,
        evaluation_batch_size=BATCH,
        seed=0,
    )
    longest = int(model_input.text_lengths().max())
    ours, ours_step = our_step(parameters, model_input, objective)
    reference, reference_step = _reference_step(
        parameters, model_input, sentences, tokenizer, longest
    )
    difference = _loss_difference(ours, reference, objective, longest)

    batches = objective.batches(0)
    for number in range(3):
        ours_step(batches[number], number)
    reference_step(batches[0])
    our_seconds, reference_seconds, flops = [], [], 0.0
    turns = OUR_STEPS // REFERENCE_STEPS
    for turn in range(REFERENCE_STEPS):
        reference_seconds.append(_seconds(lambda t=turn: reference_step(batches[t])))
        for number in range(turn * turns, (turn + 1) * turns):
            rows = batches[3 + number]
            our_seconds.append(_seconds(lambda r=rows, n=number: ours_step(r, n)))
            flops += useful_flops(parameters, model_input, rows, ours)
    peak = {name: _matmul_rate(kind) for name, kind in _kinds(torch)}
    our_rate = BATCH * len(our_seconds) / sum(our_seconds)
    reference_rate = BATCH / statistics.median(reference_seconds)
    reached = flops / sum(our_seconds)
    return {
        "batch": BATCH,
        "plm_layers": ours.encoder.layers,
        "precision": machine.precision,
        "mean_tokens": round(float(model_input.text_lengths().mean()), 2),
        "longest_tokens": longest,
        "active_vocabulary": len(model_input.active_tokens),
        "reference_samples_per_second": round(reference_rate, 2),
        "our_samples_per_second": round(our_rate, 1),
        "ratio": round(our_rate / reference_rate, 2),
        "reference_step_seconds": [round(s, 3) for s in reference_seconds],
        "our_step_seconds_median": round(statistics.median(our_seconds), 4),
        "same_loss_relative_difference": difference,
        "matmul_gflops": {name: round(rate / 1e9, 1) for name, rate in peak.items()},
        "useful_gflops": round(reached / 1e9, 1),
        "share_of_matmul_rate": round(reached / peak[machine.precision], 3),
    }


def _inputs() -> tuple[Any, Any, Callable[[int], str], Any]:
    """Parameters of the embedded data with all 6 layers; its model input and sentences."""
    from benchmarks.project import base_parameters, embedded_model_input
    from clickprompt.plm import load_tokenizer

    parameters = base_parameters()
    plm = parameters.plm.model_copy(update={"keep_layers": None})
    parameters = parameters.model_copy(update={"plm": plm})
    folder = Path(tempfile.mkdtemp(prefix="clickprompt-benchmark-"))
    model_input, text = embedded_model_input(folder, parameters)
    return parameters, model_input, text, load_tokenizer(plm)


def _build(parameters: Any, model_input: Any, plm: Any) -> Any:
    from clickprompt.training import stages

    ctr = stages._fresh_ctr(parameters.ctr, model_input, 0)
    for parameter in ctr.logit_parameters():
        parameter.requires_grad_(False)
    encoder = stages.load_encoder(plm)
    return stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=stages._fresh_generator(ctr, encoder, parameters.prompts, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder, generator=stages._generator(0, "mlm_head")),
    )


def our_step(parameters: Any, model_input: Any, objective: Any) -> tuple[Any, Callable[..., None]]:
    """A model, and what trains it by one step on these rows with the masks of a step number."""
    from clickprompt.training.optimizer import build_optimizer

    model = _build(parameters, model_input, parameters.plm)
    optimizer = build_optimizer(model, parameters.pretrain)

    def step(rows: np.ndarray, number: int) -> None:
        model.train()
        batch = objective.prepare(rows, 0, number)
        (objective.loss_sum(model, batch) / objective.count(batch)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return model, step


def _reference_step(
    parameters: Any,
    model_input: Any,
    sentences: Callable[[int], str],
    tokenizer: Any,
    longest: int,
) -> tuple[Any, Callable[[np.ndarray], None]]:
    """A step as the authors' code does it, with torch's own dropout and unfused AdamW."""
    import torch
    from torch import nn
    from torch.nn import functional

    from clickprompt.training.optimizer import parameter_groups

    model = _build(parameters, model_input, parameters.plm.model_copy(update={"attention": "sdpa"}))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Dropout(child.p))
    optimizer = torch.optim.AdamW(parameter_groups(model, parameters.pretrain))
    draw = torch.Generator().manual_seed(0)

    def step(rows: np.ndarray) -> None:
        model.train()
        token_ids, visible = [], []
        for row in rows:
            encoded = tokenizer(
                sentences(int(row)), padding="max_length", truncation=True, max_length=longest
            )
            token_ids.append(encoded["input_ids"])
            visible.append(encoded["attention_mask"])
        token_ids_BN, mask_BN = torch.tensor(token_ids), torch.tensor(visible).bool()
        special_BN = torch.isin(token_ids_BN, torch.tensor(tokenizer.all_special_ids))
        selected_BN = (torch.rand(token_ids_BN.shape, generator=draw) < 0.15) & ~special_BN
        target_BN = torch.where(selected_BN, token_ids_BN, -100)
        fate_BN = torch.rand(token_ids_BN.shape, generator=draw)
        masked_BN = token_ids_BN.clone()
        masked_BN[selected_BN & (fate_BN < 0.8)] = tokenizer.mask_token_id
        at_random_BN = selected_BN & (fate_BN >= 0.8) & (fate_BN < 0.9)
        masked_BN[at_random_BN] = torch.randint(
            model.encoder.vocabulary_size, (int(at_random_BN.sum()),), generator=draw
        )
        x_id_BF = torch.from_numpy(np.array(model_input.ids[rows]))
        logit_BNV = reference_logits(model, x_id_BF, masked_BN, mask_BN)
        functional.cross_entropy(
            logit_BNV.flatten(0, 1), target_BN.flatten(), ignore_index=-100
        ).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def reference_logits(model: Any, x_id_BF: Any, token_ids_BN: Any, mask_BN: Any) -> Any:
    """Logits of every position over the whole vocabulary (B, N, V), padding computed as well."""
    prompts = model.generator(model.ctr.representation(x_id_BF))
    with _padding_computed():
        return model.mlm_head(model.encoder(token_ids_BN, mask_BN, prompts))


@contextmanager
def _padding_computed() -> Iterator[None]:
    """Let our encoder work on whole rectangles, all rows at once, as others do."""
    import torch

    from clickprompt.plm import encoder
    from clickprompt.plm.slots import Slots

    def all_slots(mask_BN: Any) -> Slots:
        return Slots(torch.arange(mask_BN.numel()), *mask_BN.shape)

    with (
        patch.object(encoder, "text_slots", all_slots),
        patch.object(encoder, "ROWS_OF_GROUP", BATCH),
    ):
        yield


def _loss_difference(ours: Any, reference: Any, objective: Any, longest: int) -> float:
    """Relative difference of the two losses on one masked batch, float64, no dropout."""
    import torch
    from torch.nn import functional

    from clickprompt.training.objectives import to_device

    batch = objective.prepare(objective.batches(0)[0][:32], 0, 0)
    cpu = torch.device("cpu")
    with torch.no_grad():
        vocabulary_V = objective._vocabulary_V
        ours.eval().double(), reference.eval().double()
        width = batch.token_ids_BN.shape[1]
        rows_S, columns_S = to_device(batch.row_S, cpu), to_device(batch.column_S, cpu)
        target_S = to_device(batch.target_S, cpu)
        x_id_BF, token_ids_BN = to_device(batch.x_id_BF, cpu), to_device(batch.token_ids_BN, cpu)
        mask_BN = torch.arange(width) < to_device(batch.length_B, cpu)[:, None]
        first = functional.cross_entropy(
            ours(x_id_BF, token_ids_BN, mask_BN, rows_S, columns_S, vocabulary_V), target_S
        )
        padded_BN = functional.pad(token_ids_BN, (0, longest - width))
        padded_mask_BN = functional.pad(mask_BN, (0, longest - width))
        logit_BNV = reference_logits(reference, x_id_BF, padded_BN, padded_mask_BN)
        logit_SV = logit_BNV[rows_S, columns_S][:, vocabulary_V]
        second = functional.cross_entropy(logit_SV, target_S)
        ours.float(), reference.float()  # exactly what they were
    difference = float((first - second).abs() / second)
    if difference > 1e-9:
        raise AssertionError(f"both styles must compute the same loss, got {difference}")
    return difference


def useful_flops(parameters: Any, model_input: Any, rows: np.ndarray, model: Any) -> float:
    """Floating point operations of the matrix products that a step cannot do without.

    Forward and twice as much backward; real tokens only, no padding; the last layer's query,
    output and feed-forward products and the head on 15 % of the text tokens.
    """
    length_B = model_input.text_lengths()[rows].astype(np.float64)
    tokens = length_B.sum()
    selected = parameters.pretrain.masking.share * (length_B - 2).sum()
    encoder = model.encoder
    h, layers = encoder.hidden_size, encoder.layers
    inner = encoder.model.config.intermediate_size
    prompts = parameters.prompts.count
    whole = tokens * (4 * h * h + 2 * h * inner) + 2 * h * (length_B * (length_B + prompts)).sum()
    mean_length = tokens / len(rows)
    last = tokens * 2 * h * h + selected * (
        2 * h * h + 2 * h * inner + 2 * h * (mean_length + prompts)
    )
    products = sum(
        weight.shape[0] * weight.shape[1]
        for part in (model.ctr, model.generator)
        for name, weight in part.named_parameters()
        if weight.ndim == 2 and "embedding" not in name and not name.startswith("head")
    )
    head = selected * (h * h + h * len(model_input.active_tokens))
    return 2 * 3 * ((layers - 1) * whole + last + head + len(rows) * products)


def _matmul_rate(kind: Any, size: int = 2048, seconds: float = 2.0) -> float:
    """Best measured rate (FLOP/s) of a square matrix product in a number format."""
    import torch

    a, b = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = max(best, 2 * size**3 / _seconds(lambda: a @ b))
    return best


def _kinds(torch: Any) -> list[tuple[str, Any]]:
    return [("float32", torch.float32), ("bf16", torch.bfloat16)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
