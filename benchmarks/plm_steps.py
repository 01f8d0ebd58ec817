"""Steps with a language model: this project's, and ones in the style of the authors' code.

Both train the same weights (MiniLM of the embedded package, DCNv2, K = 5) on the same rows of the
embedded data at batch 256:

- reference style: float32; every text is tokenised in the loop, row by row, and padded to the
  longest of the data set; the masked-language head runs on all positions of the full
  vocabulary; attention is torch's fused kernel, dropout torch's own, AdamW is not fused; in
  finetuning the CTR model runs twice, for the prompts and for the logit;
- ours: bf16 where the machine has it; pieces tokenised once; text tokens packed, without padding;
  the head and the last layer on the selected positions only; softmax over the active vocabulary.

``benchmarks.plm_speed`` times them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

BATCH = 256


def inputs() -> tuple[Any, Any, Callable[[int], str], Any]:
    """Parameters and model input of the embedded data, the text of a row, the tokenizer."""
    from benchmarks.project import base_parameters, embedded_model_input
    from clickprompt.plm import load_tokenizer

    parameters = base_parameters()
    folder = Path(tempfile.mkdtemp(prefix="clickprompt-benchmark-"))
    model_input, text = embedded_model_input(folder, parameters)
    return parameters, model_input, text, load_tokenizer(parameters.plm)


def with_plm(parameters: Any, **changes: Any) -> Any:
    """The parameters with other ones of the language model."""
    return parameters.model_copy(update={"plm": parameters.plm.model_copy(update=changes)})


def _build_pretraining(parameters: Any, model_input: Any, plm: Any) -> Any:
    from clickprompt.training import parts, stages

    ctr = parts.fresh_ctr(parameters.ctr, model_input, 0)
    for parameter in ctr.logit_parameters():
        parameter.requires_grad_(False)
    encoder = parts.load_encoder(plm)
    return stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, parameters.prompts, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder, generator=parts.random_source(0, "mlm_head")),
    )


def our_step(parameters: Any, model_input: Any, objective: Any) -> tuple[Any, Callable[..., None]]:
    """A model, and what trains it by one step on these rows with the masks of a step number."""
    from clickprompt.training.optimizer import build_optimizer

    model = _build_pretraining(parameters, model_input, parameters.plm)
    optimizer = build_optimizer(model, parameters.pretrain)

    def step(rows: np.ndarray, number: int) -> None:
        model.train()
        batch = objective.prepare(rows, 0, number)
        (objective.loss_sum(model, batch) / objective.count(batch)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return model, step


def reference_step(
    parameters: Any,
    model_input: Any,
    sentences: Callable[[int], str],
    tokenizer: Any,
    longest: int,
) -> tuple[Any, Callable[[np.ndarray], None]]:
    """A pretraining step as the authors' code does it."""
    import torch
    from torch.nn import functional

    model = _build_pretraining(
        parameters, model_input, parameters.plm.model_copy(update={"attention": "sdpa"})
    )
    optimizer = _reference_optimizer(model, parameters.pretrain)
    read = _reader(sentences, tokenizer, longest)
    draw = torch.Generator().manual_seed(0)

    def step(rows: np.ndarray) -> None:
        model.train()
        token_ids_BN, mask_BN = read(rows)
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
        logit_BNV = reference_logits(model, _ids(model_input, rows), masked_BN, mask_BN)
        functional.cross_entropy(
            logit_BNV.flatten(0, 1), target_BN.flatten(), ignore_index=-100
        ).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def our_clicks(
    parameters: Any, model_input: Any, objective: Any, *, rate: float
) -> tuple[Any, Callable[[np.ndarray], None], Callable[[np.ndarray], Any]]:
    """A model for clicks with the PLM, its training step on some rows, and their scoring.

    Args:
        parameters: of the project.
        model_input: the rows.
        objective: a `ClickObjective` with text.
        rate: learning rate of the PLM; 0 freezes it, and takes its dropout, as the stage does.
    """
    import torch

    from clickprompt.training.optimizer import build_optimizer

    stage = parameters.finetune.with_plm.model_copy(update={"learning_rate_plm": rate})
    plm = parameters.plm if rate else parameters.plm.model_copy(update={"dropout": 0.0})
    model = _build_clicks(parameters, model_input, plm)
    optimizer = build_optimizer(model, stage)

    def step(rows: np.ndarray) -> None:
        model.train()
        (objective.loss_sum(model, objective.prepare(rows)) / len(rows)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def score(rows: np.ndarray) -> Any:
        model.eval()
        with objective._machine.autocast():
            return objective.logits(model, objective.prepare(rows)).double().numpy()

    return model, step, score


def reference_clicks(
    parameters: Any,
    model_input: Any,
    sentences: Callable[[int], str],
    tokenizer: Any,
    longest: int,
) -> tuple[Any, Callable[[np.ndarray], None], Callable[[np.ndarray], Any]]:
    """As `our_clicks` with a trained PLM, in the style of the authors' code."""
    import torch
    from torch.nn import functional

    plm = parameters.plm.model_copy(update={"attention": "sdpa"})
    model = _build_clicks(parameters, model_input, plm)
    stage = parameters.finetune.with_plm.model_copy(update={"learning_rate_plm": 5e-5})
    optimizer = _reference_optimizer(model, stage)
    read = _reader(sentences, tokenizer, longest)

    def logits(rows: np.ndarray) -> Any:
        token_ids_BN, mask_BN = read(rows)
        x_id_BF = _ids(model_input, rows)
        with _padding_computed():
            hidden_BNH = model.encoder(
                token_ids_BN, mask_BN, model.generator(model.ctr.representation(x_id_BF))
            )
        weight_BN1 = mask_BN.unsqueeze(-1) / mask_BN.sum(dim=1)[:, None, None]
        z_plm_B = model.click_head((hidden_BNH * weight_BN1).sum(dim=1))
        return model.alpha * model.ctr(x_id_BF) + (1 - model.alpha) * z_plm_B

    def step(rows: np.ndarray) -> None:
        model.train()
        label_B = torch.from_numpy(np.array(model_input.labels[rows])).float()
        functional.binary_cross_entropy_with_logits(logits(rows), label_B).backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def score(rows: np.ndarray) -> Any:
        model.eval()
        return logits(rows).double().numpy()

    return model, step, score


def _build_clicks(parameters: Any, model_input: Any, plm: Any) -> Any:
    from clickprompt.training import parts

    ctr = parts.fresh_ctr(parameters.ctr, model_input, 0)
    encoder = parts.load_encoder(plm)
    model = parts.ClickPromptForClicks(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, parameters.prompts, 0),
        encoder=encoder,
    )
    model.click_head.initialise(parts.random_source(0, "click_head"))
    return model


def _reference_optimizer(model: Any, stage: Any) -> Any:
    """Unfused AdamW; the model gets torch's own dropout."""
    import torch
    from torch import nn

    from clickprompt.training.optimizer import parameter_groups

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, nn.Dropout(child.p))
    return torch.optim.AdamW(parameter_groups(model, stage))


def _reader(
    sentences: Callable[[int], str], tokenizer: Any, longest: int
) -> Callable[[np.ndarray], tuple[Any, Any]]:
    """Tokenise rows one by one, each padded to ``longest``."""
    import torch

    def read(rows: np.ndarray) -> tuple[Any, Any]:
        token_ids, visible = [], []
        for row in rows:
            encoded = tokenizer(
                sentences(int(row)), padding="max_length", truncation=True, max_length=longest
            )
            token_ids.append(encoded["input_ids"])
            visible.append(encoded["attention_mask"])
        return torch.tensor(token_ids), torch.tensor(visible).bool()

    return read


def _ids(model_input: Any, rows: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.array(model_input.ids[rows]))


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


def loss_difference(ours: Any, reference: Any, objective: Any, longest: int) -> float:
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
    """Floating point operations of the matrix products that a pretraining step cannot do without.

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
    whole = _layer_products(length_B, h, inner, prompts)
    mean_length = tokens / len(rows)
    last = tokens * 2 * h * h + selected * (
        2 * h * h + 2 * h * inner + 2 * h * (mean_length + prompts)
    )
    head = selected * (h * h + h * len(model_input.active_tokens))
    return 2 * 3 * ((layers - 1) * whole + last + head + len(rows) * _row_products(model))


def useful_flops_of_scoring(
    parameters: Any, model_input: Any, rows: np.ndarray, model: Any
) -> float:
    """As `useful_flops`, of scoring rows with the PLM: forward, all layers at all tokens."""
    length_B = model_input.text_lengths()[rows].astype(np.float64)
    encoder = model.encoder
    h, inner = encoder.hidden_size, encoder.model.config.intermediate_size
    whole = _layer_products(length_B, h, inner, parameters.prompts.count)
    return 2 * (encoder.layers * whole + len(rows) * (h * h + _row_products(model)))


def _layer_products(length_B: np.ndarray, h: int, inner: int, prompts: int) -> float:
    tokens = length_B.sum()
    attention = 2 * h * (length_B * (length_B + prompts)).sum()
    return float(tokens * (4 * h * h + 2 * h * inner) + attention)


def _row_products(model: Any) -> int:
    """Multiplications a row in the CTR model and the prompt generator."""
    return sum(
        weight.shape[0] * weight.shape[1]
        for part in (model.ctr, model.generator)
        for name, weight in part.named_parameters()
        if weight.ndim == 2 and "embedding" not in name and not name.startswith("head")
    )


def matmul_rate(kind: Any, size: int = 2048, seconds: float = 2.0) -> float:
    """Best measured rate (FLOP/s) of a square matrix product in a number format."""
    import torch

    a, b = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = max(best, 2 * size**3 / seconds_of(lambda: a @ b))
    return best


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
