"""A plain twin of the reference's joint model, and case files in the form of tests/golden.

Written from tests/golden/README.md alone: torch functions on a dictionary of weights under the
reference's names, dense and padded, nothing of the package. Its gradients are torch's own. It
makes the cases that tests/golden does not hold: RoBERTa, and prompts in front of the text.

Letters: B rows, F fields, E embedding size, D representation, N text columns, M all columns (K + N
for input-only prompts), K prompts, L layers, H hidden size, A heads, d head size, S selected.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]

FIELD_SIZES = (5, 7, 3, 11)
OFFSETS = (0, 5, 12, 15)
LENGTHS = (12, 9, 7, 10)
SIZES = {"B": 4, "N": 12, "K": 3, "L": 3, "H": 32, "A": 4, "d": 8, "F": 4, "E": 8, "V": 120}
INTERMEDIATE, POSITIONS, DEEP, CROSS_LAYERS = 64, 64, 16, 2
SPECIAL = {
    "bert": {"cls": 101, "sep": 102, "pad": 0, "mask": 103},
    "roberta": {"cls": 0, "sep": 2, "pad": 1, "mask": 119},
}
EPSILON = {"bert": 1e-12, "roberta": 1e-5}
SELECTED = ((0, 2), (0, 5), (0, 10), (1, 1), (1, 7), (2, 3), (3, 4), (3, 6), (3, 8))
POOLINGS = ("cls", "avg", "avg_first_last", "avg_top2")


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor, epsilon: float) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    scaled = (x - mean) / torch.sqrt(variance + epsilon)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def representation(weights: Weights, model: str, x_id_BF: Tensor) -> Tensor:
    """q of DNN or parallel DCNv2; ``x_id`` are rows of the one table."""
    x0 = weights["ctr_model.embed.embedding.weight"][x_id_BF].flatten(1)
    prefix = "ctr_model.dnn.dnn" if model == "DNN" else "ctr_model.parallel_dnn.dnn"
    deep = torch.relu(linear(weights, f"{prefix}.0", x0))
    deep = torch.relu(linear(weights, f"{prefix}.3", deep))
    if model == "DNN":
        return deep
    cross = x0
    for layer in range(CROSS_LAYERS):
        cross = cross + x0 * linear(weights, f"ctr_model.cross_net.cross_layers.{layer}", cross)
    return torch.cat((cross, deep), dim=1)


def layer_prompts(weights: Weights, sizes: dict[str, int], q_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, L, A, K, d) of layer-wise prompts."""
    shared = torch.tanh(linear(weights, "ctr_model.prompt_layers.0", q_BD))
    output = linear(weights, "ctr_model.prompt_layers.2", shared)
    split = output.reshape(len(q_BD), sizes["K"], sizes["L"], 2, sizes["A"], sizes["d"])
    both = split.permute(3, 0, 2, 4, 1, 5)
    return both[0], both[1]


def front_prompts(weights: Weights, sizes: dict[str, int], q_BD: Tensor) -> Tensor:
    """Vectors (B, K, H) that stand in front of the word embeddings."""
    each = [linear(weights, f"ctr_model.prompt_layers.{k}", q_BD) for k in range(sizes["K"])]
    return torch.stack(each, dim=1)


def encode(
    weights: Weights,
    about: dict[str, Any],
    ids_BN: Tensor,
    mask_BN: Tensor,
    q_BD: Tensor,
    positions_BM: Tensor,
) -> list[Tensor]:
    """Hidden states (B, M, H) of the embedding block and of every layer."""
    sizes, family = about["sizes"], about["plm"]["family"]
    epsilon, pad = about["plm"]["layer_norm_eps"], SPECIAL[family]["pad"]
    embeddings = "nlp_encoder.embeddings"
    # A padding index has no gradient: that of BERT's words, those of RoBERTa's words and positions.
    words = functional.embedding(
        ids_BN, weights[f"{embeddings}.word_embeddings.weight"], padding_idx=pad
    )
    if is_input_only(weights, sizes):
        words = torch.cat((front_prompts(weights, sizes, q_BD), words), dim=1)
        mask_BN = torch.cat((torch.ones(len(ids_BN), sizes["K"], dtype=torch.bool), mask_BN), 1)
        keys = values = None
    else:
        keys, values = layer_prompts(weights, sizes, q_BD)
    positions = functional.embedding(
        positions_BM,
        weights[f"{embeddings}.position_embeddings.weight"],
        padding_idx=pad if family == "roberta" else None,
    )
    hidden = words + positions + weights[f"{embeddings}.token_type_embeddings.weight"][0]
    hidden = norm(weights, f"{embeddings}.LayerNorm", hidden, epsilon)
    states = [hidden]
    for number in range(sizes["L"]):
        layer = f"nlp_encoder.encoder.layer.{number}"
        query, key, value = (
            linear(weights, f"{layer}.attention.self.{part}", hidden)
            .reshape(*hidden.shape[:2], sizes["A"], sizes["d"])
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        visible = mask_BN
        if keys is not None and values is not None:
            key = torch.cat((keys[:, number], key), dim=2)
            value = torch.cat((values[:, number], value), dim=2)
            seen = torch.ones(len(ids_BN), sizes["K"], dtype=torch.bool)
            visible = torch.cat((seen, mask_BN), dim=1)
        scores = torch.einsum("banc,bamc->banm", query, key) / math.sqrt(sizes["d"])
        scores = scores.masked_fill(~visible[:, None, None, :], -torch.inf)
        shares = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        shares = shares / shares.sum(dim=-1, keepdim=True)
        context = torch.einsum("banm,bamc->banc", shares, value).transpose(1, 2).flatten(2)
        joined = linear(weights, f"{layer}.attention.output.dense", context) + hidden
        joined = norm(weights, f"{layer}.attention.output.LayerNorm", joined, epsilon)
        inner = gelu(linear(weights, f"{layer}.intermediate.dense", joined))
        hidden = linear(weights, f"{layer}.output.dense", inner) + joined
        hidden = norm(weights, f"{layer}.output.LayerNorm", hidden, epsilon)
        states.append(hidden)
    return states


def is_input_only(weights: Any, sizes: dict[str, int]) -> bool:
    """Layer-wise generators end in a matrix of K * 2L * H rows, the others have H each."""
    last = weights.get("ctr_model.prompt_layers.2.weight")
    return last is None or last.shape[0] != sizes["K"] * 2 * sizes["L"] * sizes["H"]


def pooled(states: list[Tensor], mask_BM: Tensor, pooling: str) -> Tensor:
    """One vector a row; the columns are all that the encoder had."""
    last = states[-1]
    if pooling == "cls":
        return last[:, 0]
    other = {"avg": last, "avg_first_last": states[1], "avg_top2": states[-2]}[pooling]
    seen = mask_BM[..., None].double()
    return ((last + other) / 2 * seen).sum(dim=1) / seen.sum(dim=1)


def compute(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs and all gradients of a case from its weights and inputs."""
    weights = {
        name.removeprefix("param/"): torch.from_numpy(array).double().requires_grad_()
        for name, array in arrays.items()
        if name.startswith("param/")
    }
    inputs = {
        name.removeprefix("in/"): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith("in/")
    }
    sizes = about["sizes"]
    mask_BN = inputs["attention_mask"].bool()
    q_BD = representation(weights, about["ctr_model"]["model"], inputs["x_id"])
    found = {"out/q": q_BD}
    front = sizes["K"] if is_input_only(weights, sizes) else 0
    if front:
        found["out/generator_output"] = front_prompts(weights, sizes, q_BD)
    else:
        found["out/prompt_keys"], found["out/prompt_values"] = layer_prompts(weights, sizes, q_BD)
    masked = "masked_input_ids" in inputs
    states = encode(
        weights,
        about,
        inputs["masked_input_ids" if masked else "input_ids"],
        mask_BN,
        q_BD,
        inputs["position_ids"],
    )
    losses: dict[str, Tensor] = {}
    if masked:
        row_S, column_S = inputs["selected"].T
        hidden_SH = states[-1][row_S, column_S + front]
        names = ("transform.dense", "transform.LayerNorm")
        if about["plm"]["family"] == "roberta":
            names = ("dense", "layer_norm")
        hidden_SH = gelu(linear(weights, f"lm_head.{names[0]}", hidden_SH))
        epsilon = about["plm"]["layer_norm_eps"]
        hidden_SH = norm(weights, f"lm_head.{names[1]}", hidden_SH, epsilon)
        logits_SV = hidden_SH @ weights["lm_head.decoder.weight"].T + weights["lm_head.bias"]
        found["out/last_hidden"], found["out/logits_selected"] = states[-1], logits_SV
        target_S = inputs["mlm_labels"][row_S, column_S]
        own_S = logits_SV[torch.arange(len(target_S)), target_S]
        losses["mlm"] = (torch.logsumexp(logits_SV, dim=1) - own_S).mean()
        found["out/loss"] = losses["mlm"]
    else:
        found["out/hidden_states"] = torch.stack(states)
        seen = torch.ones(len(mask_BN), front, dtype=torch.bool)
        mask_BM = torch.cat((seen, mask_BN), dim=1)
        z_ctr_B = linear(weights, "ctr_model.fc_out", q_BD)[:, 0]
        found["out/z_ctr"] = z_ctr_B
        label_B, alpha = inputs["label"].double(), weights["alpha"]
        for pooling in POOLINGS:
            vector_BH = pooled(states, mask_BM, pooling)
            hidden_BH = torch.tanh(linear(weights, "nlp_head.0", vector_BH))
            z_plm_B = linear(weights, "nlp_head.2", hidden_BH)[:, 0]
            found[f"out/pooled/{pooling}"], found[f"out/z_plm/{pooling}"] = vector_BH, z_plm_B
            for fusion in ("sum", "weighted"):
                setting = f"{pooling}__{fusion}"
                logit_B = z_plm_B + z_ctr_B
                if fusion == "weighted":
                    logit_B = alpha * z_plm_B + (1 - alpha) * z_ctr_B
                losses[setting] = (torch.log1p(torch.exp(logit_B)) - label_B * logit_B).mean()
                found[f"out/logit/{setting}"] = logit_B
                found[f"out/loss/{setting}"] = losses[setting]
    result = {name: tensor.detach().numpy() for name, tensor in found.items()}
    for setting, loss in losses.items():
        gradients = torch.autograd.grad(
            loss, list(weights.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(weights, gradients, strict=True):
            zero = np.zeros(tuple(weights[name].shape))
            result[f"grad/{setting}/{name}"] = zero if gradient is None else gradient.numpy()
    return result


# --- new cases --------------------------------------------------------------------------------


def write_case(folder: Path, name: str) -> None:
    """``name``.npz and .json, for a name like ``roberta_dcnv2_input_only_finetune_padded``."""
    family, model = name.split("_")[:2]
    model = {"dcnv2": "DCNv2", "dnn": "DNN"}[model]
    width = SIZES["F"] * SIZES["E"]
    sizes = SIZES | {"D": DEEP if model == "DNN" else width + DEEP}
    about = {
        "case": name,
        "sizes": sizes,
        "plm": {
            "family": family,
            "vocab_size": sizes["V"],
            "hidden_size": sizes["H"],
            "num_hidden_layers": sizes["L"],
            "num_attention_heads": sizes["A"],
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2 if family == "bert" else 1,
            "layer_norm_eps": EPSILON[family],
            "pad_token_id": SPECIAL[family]["pad"],
        },
        "ctr_model": {"model": model, "field_sizes": list(FIELD_SIZES)},
    }
    arrays = _weights(about, name) | _inputs(about, name)
    arrays |= compute(about, arrays)
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


def _weights(about: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    """``param/...`` by the README's formula, float32."""
    sizes, plm, model = about["sizes"], about["plm"], about["ctr_model"]["model"]
    hidden, width = sizes["H"], sizes["F"] * sizes["E"]
    shapes: dict[str, tuple[int, ...]] = {"ctr_model.embed.embedding.weight": (26, sizes["E"])}

    def add_linear(part: str, out: int, size: int) -> None:
        shapes[f"{part}.weight"], shapes[f"{part}.bias"] = (out, size), (out,)

    def add_norm(part: str) -> None:
        shapes[f"{part}.weight"], shapes[f"{part}.bias"] = (hidden,), (hidden,)

    deep = "ctr_model.dnn.dnn" if model == "DNN" else "ctr_model.parallel_dnn.dnn"
    add_linear(f"{deep}.0", DEEP, width)
    add_linear(f"{deep}.3", DEEP, DEEP)
    for layer in range(0 if model == "DNN" else CROSS_LAYERS):
        add_linear(f"ctr_model.cross_net.cross_layers.{layer}", width, width)
    if "_input_only_" in name:
        for k in range(sizes["K"]):
            add_linear(f"ctr_model.prompt_layers.{k}", hidden, sizes["D"])
    else:
        add_linear("ctr_model.prompt_layers.0", hidden, sizes["D"])
        rows = sizes["K"] * 2 * sizes["L"] * hidden
        add_linear("ctr_model.prompt_layers.2", rows, hidden)
    for table, rows in (
        ("word", plm["vocab_size"]),
        ("position", plm["max_position_embeddings"]),
        ("token_type", plm["type_vocab_size"]),
    ):
        shapes[f"nlp_encoder.embeddings.{table}_embeddings.weight"] = (rows, hidden)
    add_norm("nlp_encoder.embeddings.LayerNorm")
    for number in range(sizes["L"]):
        layer = f"nlp_encoder.encoder.layer.{number}"
        for part in ("query", "key", "value"):
            add_linear(f"{layer}.attention.self.{part}", hidden, hidden)
        add_linear(f"{layer}.attention.output.dense", hidden, hidden)
        add_norm(f"{layer}.attention.output.LayerNorm")
        add_linear(f"{layer}.intermediate.dense", plm["intermediate_size"], hidden)
        add_linear(f"{layer}.output.dense", hidden, plm["intermediate_size"])
        add_norm(f"{layer}.output.LayerNorm")
    if "_mlm" in name:
        bert = plm["family"] == "bert"
        add_linear("lm_head.transform.dense" if bert else "lm_head.dense", hidden, hidden)
        add_norm("lm_head.transform.LayerNorm" if bert else "lm_head.layer_norm")
        shapes["lm_head.decoder.weight"] = (plm["vocab_size"], hidden)
        shapes["lm_head.bias"] = (plm["vocab_size"],)
    else:
        add_linear("nlp_head.0", hidden, hidden)
        add_linear("nlp_head.2", 1, hidden)
        add_linear("ctr_model.fc_out", 1, sizes["D"])
        shapes["alpha"] = (1,)
    weights = {}
    for phase, part in enumerate(sorted(shapes)):
        i = np.arange(math.prod(shapes[part]))
        values = 0.3 * np.sin(1.7 * i + 0.0137 * i * i + phase)
        if "norm" in part.lower() and part.endswith("weight"):
            values = 1 + values
        values = np.array([0.37]) if part == "alpha" else values
        weights[f"param/{part}"] = values.reshape(shapes[part]).astype(np.float32)
    if name.endswith("_tied_values"):
        table = weights["param/nlp_encoder.embeddings.word_embeddings.weight"]
        weights["param/lm_head.decoder.weight"] = table.copy()
    return weights


def _inputs(about: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    """``in/...``: ids, text, positions; labels, or what was masked."""
    sizes, special = about["sizes"], SPECIAL[about["plm"]["family"]]
    rows, columns = sizes["B"], sizes["N"]
    lengths = (columns,) * rows if "_equal_length" in name else LENGTHS
    local_BF = np.array(
        [[(3 * b + 5 * f + 1) % size for f, size in enumerate(FIELD_SIZES)] for b in range(rows)]
    )
    text_BN = np.full((rows, columns), special["pad"])
    for b, length in enumerate(lengths):
        text_BN[b, :length] = [special["cls"], *(5 + (7 * b + 11 * np.arange(length - 2)) % 90), 0]
        text_BN[b, length - 1] = special["sep"]
    mask_BN = (np.arange(columns) < np.array(lengths)[:, None]).astype(np.int64)
    inputs = {
        "in/x_id_local": local_BF,
        "in/x_id": local_BF + np.array(OFFSETS),
        "in/input_ids": text_BN,
        "in/attention_mask": mask_BN,
        "in/position_ids": _positions(about["plm"]["family"], name, mask_BN, sizes["K"]),
    }
    if "_mlm" not in name:
        return inputs | {"in/label": np.array([1, 0, 0, 1])}
    masked_BN, labels_BN = text_BN.copy(), np.full(text_BN.shape, -100)
    for number, (row, column) in enumerate(SELECTED):
        labels_BN[row, column] = text_BN[row, column]
        replacement = (special["mask"], 60 + number, text_BN[row, column])[number % 3]
        masked_BN[row, column] = replacement
    return inputs | {
        "in/masked_input_ids": masked_BN,
        "in/mlm_labels": labels_BN,
        "in/selected": np.array(SELECTED),
    }


def _positions(family: str, name: str, mask_BN: np.ndarray, count: int) -> np.ndarray:
    """Ids as the reference gives them, or not shifted (``_unshifted``)."""
    rows, columns = mask_BN.shape
    first = 0 if family == "bert" else SPECIAL[family]["pad"] + 1
    if "_input_only_" in name:  # made of the embeddings, whose padding cannot be told
        return np.tile(first + np.arange(count + columns), (rows, 1))
    shift = 0 if name.endswith("_unshifted") else count
    positions_BN = np.tile(first + shift + np.arange(columns), (rows, 1))
    if family == "roberta":
        positions_BN = np.where(mask_BN == 1, positions_BN, SPECIAL[family]["pad"])
    return positions_BN
