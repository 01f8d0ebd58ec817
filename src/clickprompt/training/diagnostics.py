"""What the prompts do in a trained model: who listens to them, and what is lost without them.

Section 8 of docs/method.md. Measured on some valid rows, once a stage is trained; nothing that is
learnt depends on it.

Letters: B batch, N text columns, A heads, K prompts, G groups of tokens (the fields, the special
tokens, padding).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.evaluation.metrics import summarise
from clickprompt.modality import ModelInput, TextBatcher
from clickprompt.models.clickprompt import PromptUse
from clickprompt.parameters import TrainingParameters
from clickprompt.plm.observation import Observer, PromptShares
from clickprompt.training.distribution import call_within
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import (
    TOKEN_MULTIPLE,
    Batch,
    ClickObjective,
    Objective,
    probabilities,
    text_mask,
    to_device,
)

logger = logging.getLogger(__name__)

WAYS: tuple[PromptUse, ...] = ("on", "off", "shuffled")

# The weights of a layer are held whole, (B, A, N, K + N), which the kernels need not do.
ATTENTION_ROWS = 128


def diagnose(
    *,
    name: str,
    model: nn.Module,
    objective: Objective,
    model_input: ModelInput,
    machine: Machine,
    training: TrainingParameters,
) -> dict[str, Any] | None:
    """Look at the prompts of a trained model on `training.diagnostic_rows` valid rows.

    Args:
        name: of the stage, for the log.
        model: trained; a CTR model alone, or a model without a generator, has no prompts.
        objective: of the stage; where it is the click, its metrics are measured too.
        model_input: both views of the samples.
        machine: device and precision.
        training: number of rows, rows of an evaluation batch.

    Returns:
        None where there are no prompts, or no rows are asked for; else a dict of plain values:
        ``rows``, ``attention`` (`prompt_attention`) and, for clicks, ``effect`` (`prompt_effect`).
    """
    if training.diagnostic_rows is None or getattr(model, "generator", None) is None:
        return None
    start = time.monotonic()
    rows = diagnostic_rows(model_input, training.diagnostic_rows)
    found: dict[str, Any] = {
        "rows": len(rows),
        "attention": prompt_attention(model, model_input, machine, rows),
    }
    if isinstance(objective, ClickObjective):
        found["effect"] = prompt_effect(
            model, objective, model_input, machine, rows, size=training.evaluation_batch_size
        )
    logger.info(
        "%s: prompts looked at on %s valid rows in %.1f s",
        name,
        f"{len(rows):,}",
        time.monotonic() - start,
    )
    return found


def diagnostic_rows(model_input: ModelInput, count: int) -> np.ndarray:
    """At most so many valid rows, always the same, in an order that mixes users."""
    part = model_input.rows("valid")
    generator = np.random.Generator(np.random.Philox(0))
    rows: np.ndarray = generator.permutation(np.arange(part.start, part.stop))[:count]
    return rows


@torch.no_grad()
def prompt_attention(
    model: nn.Module, model_input: ModelInput, machine: Machine, rows: np.ndarray
) -> dict[str, Any]:
    """How much of its attention the text gives to the prompts, by layer and field.

    The text is whole: no token is masked, after pretraining neither, so that the stages can be
    compared. A share is a mean over tokens, heads and rows of the attention weights that all
    prompts get together. ``indifferent`` is what it would be if each token attended alike to
    everything that it sees: K / (K + n) for a text of n tokens, special ones included.

    Args:
        model: with ``ctr``, ``generator`` and ``encoder``; is put into evaluation mode.
        model_input: both views of the samples.
        machine: device and precision.
        rows: row positions in the model input.

    Returns:
        ``prompts`` (K), ``mean_tokens`` (n, mean), ``share`` and ``indifferent`` (mean over the
        layers), and ``layers``: for each ``layer`` (from 1) ``share`` and ``indifferent`` of the
        fields' tokens, the same ``by_field`` and for the ``special_tokens``, and, of the fields'
        tokens, ``by_head``, ``by_prompt`` and ``by_head_and_prompt``.
    """
    model.eval()
    names = [str(field["name"]) for field in model_input.metadata["fields"]]
    special, padding = len(names), len(names) + 1
    text = TextBatcher(model_input)
    parts: Any = model
    sums: dict[int, list[np.ndarray]] = defaultdict(list)
    indifferent: dict[int, list[np.ndarray]] = defaultdict(list)
    counts_G = np.zeros(len(names) + 1)
    tokens = 0
    for chosen in _batches(rows, ATTENTION_ROWS, text):
        token_ids_BN, length_B = text.tokens(chosen, multiple_of=TOKEN_MULTIPLE)
        batch = Batch(
            x_id_BF=model_input.ids[chosen],
            label_B=model_input.labels[chosen],
            token_ids_BN=token_ids_BN,
            length_B=length_B,
        )
        group_BN = text.fields(chosen, token_ids_BN, length_B)
        group_BN[group_BN < 0] = special
        group_BN[np.arange(group_BN.shape[1]) >= length_B[:, None]] = padding
        counts_G += np.bincount(group_BN.reshape(-1), minlength=padding + 1)[:padding]
        tokens += int(length_B.sum())
        group_P = to_device(group_BN.reshape(-1), machine.device)

        def add(shares: PromptShares, group_P: Tensor = group_P) -> None:
            share_PAK = shares.share_BNAK.flatten(0, 1)
            sums[shares.layer].append(_sums(share_PAK, group_P, padding))
            alike_P1 = shares.indifferent_BN.flatten()[:, None]
            indifferent[shares.layer].append(_sums(alike_P1, group_P, padding)[:, 0])

        def forward(x_id_BF: Tensor, *text: Tensor | None, add: Observer = add) -> None:
            parts.encoder(*text, parts.generator(parts.ctr.representation(x_id_BF)), observe=add)

        with machine.autocast():
            call_within(
                model,
                forward,
                to_device(batch.x_id_BF, machine.device),
                to_device(token_ids_BN, machine.device),
                text_mask(batch, machine.device),
            )
    layers = [
        _layer(
            layer + 1,
            names,
            np.sum(sums[layer], axis=0),
            np.sum(indifferent[layer], axis=0),
            counts_G,
        )
        for layer in sorted(sums)
    ]
    return {
        "prompts": len(layers[0]["by_prompt"]),
        "mean_tokens": tokens / len(rows),
        "share": float(np.mean([layer["share"] for layer in layers])),
        "indifferent": float(np.mean([layer["indifferent"] for layer in layers])),
        "layers": layers,
    }


@torch.no_grad()
def prompt_effect(
    model: nn.Module,
    objective: ClickObjective,
    model_input: ModelInput,
    machine: Machine,
    rows: np.ndarray,
    *,
    size: int,
) -> dict[str, float | None]:
    """AUC and LogLoss of the click with prompts on, off and shuffled between rows.

    The CTR model's own logit is the same in all three.

    Args:
        model: `ClickPromptForClicks`; is put into evaluation mode.
        objective: of finetuning with the PLM.
        model_input: both views of the samples.
        machine: device and precision.
        rows: row positions in the model input.
        size: rows of a batch, between which prompts are shuffled.

    Returns:
        ``valid_auc_prompts_on`` and so on; an AUC of rows of one class is None.
    """
    model.eval()
    logits: dict[PromptUse, list[np.ndarray]] = {way: [] for way in WAYS}
    labels = []
    for chosen in _batches(rows, size, TextBatcher(model_input)):
        batch = objective.prepare(chosen)
        labels.append(batch.label_B)
        for way in WAYS:
            with machine.autocast():
                logit_B = objective.logits(model, batch, way)
            logits[way].append(logit_B.double().cpu().numpy())
    label = np.concatenate(labels)
    effect: dict[str, float | None] = {}
    for way in WAYS:
        found: Mapping[str, Any] = summarise(label, probabilities(np.concatenate(logits[way])))
        effect |= {f"valid_{metric}_prompts_{way}": found[metric] for metric in ("auc", "log_loss")}
    return effect


def _batches(rows: np.ndarray, size: int, text: TextBatcher) -> Iterator[np.ndarray]:
    """Rows in their order, each batch sorted by length, so that neighbours need less padding."""
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        _, length_B = text.tokens(batch)
        yield batch[np.argsort(length_B, kind="stable")]


def _sums(value_PX: Tensor, group_P: Tensor, groups: int) -> np.ndarray:
    """Sum over the tokens of each group, float64; the group after the last one is left out.

    As a matrix product: on a CPU ``index_add_`` takes longer than the forward.
    """
    inside_T = (group_P < groups).nonzero()[:, 0]
    value_TX = value_PX[inside_T].flatten(1)
    member_TG = functional.one_hot(group_P[inside_T], groups).to(value_TX.dtype)
    with torch.autocast(value_PX.device.type, enabled=False):
        total_GX = member_TG.T @ value_TX
    found: np.ndarray = total_GX.double().cpu().numpy()
    return found.reshape(groups, *value_PX.shape[1:])


def _layer(
    number: int, names: list[str], sum_GAK: np.ndarray, sum_G: np.ndarray, counts_G: np.ndarray
) -> dict[str, Any]:
    """Means of one layer from the sums over tokens; the last group is that of special tokens."""
    fields = len(names)
    mean_AK = sum_GAK[:fields].sum(axis=0) / counts_G[:fields].sum()
    by_group = [
        {"share": float(sum_AK.sum(axis=1).mean() / count), "indifferent": float(alike / count)}
        if count
        else None
        for sum_AK, alike, count in zip(sum_GAK, sum_G, counts_G, strict=True)
    ]
    return {
        "layer": number,
        "share": float(mean_AK.sum(axis=1).mean()),
        "indifferent": float(sum_G[:fields].sum() / counts_G[:fields].sum()),
        "by_field": dict(zip(names, by_group[:fields], strict=True)),
        "special_tokens": by_group[fields],
        "by_head": mean_AK.sum(axis=1).tolist(),
        "by_prompt": mean_AK.mean(axis=0).tolist(),
        "by_head_and_prompt": mean_AK.tolist(),
    }
