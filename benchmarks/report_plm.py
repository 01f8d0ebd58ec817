"""Sections of docs/results.md about the language model's speed, memory and what its time buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from benchmarks.figures import lines_svg
from benchmarks.markdown import grid, origin

FIGURE = "images/accuracy_per_minute.svg"  # beside the page
DROPOUT = {"checkpoint": "0.1", "none": "0"}


def speed_section(result: Mapping[str, Any]) -> str:
    """Pretraining, finetuning with PLM and scoring with PLM against the authors' style."""
    rates = result["matmul_gflops"]
    both = (
        "In both styles the same weights, rows and arithmetic, taking turns in one process; on one "
        "batch in float64 they give the same loss (the command ends in an error at a relative "
        "difference above 1e-9) and the same logits (at most "
        f"{max(cell['same_logits_difference'] for cell in result['clicks']):.1g}; one of the two "
        "is rounded to float32)."
    )
    return "\n\n".join(
        [
            "## Speed with the language model",
            "```sh\npython -m benchmarks.plm_speed\n```",
            f"MiniLM, DCNv2, K = 5, batch {result['batch']}, {result['mean_tokens']} tokens a row "
            f"on average, {result['longest_tokens']} at most. Reference style: float32, every text "
            "tokenised in the loop and padded to the longest, the head on all positions and all "
            f"{result['vocabulary']:,} tokens, the CTR model run twice in finetuning. Ours: "
            f"{result['precision']}, softmax over {result['active_vocabulary']:,} tokens. {both} "
            f"{origin(result)}",
            grid(
                ["pretraining", "dropout", "ours, samples/s", "reference style", "ratio",
                 "useful GFLOP/s", "of the matrix rate"],
                [
                    [
                        f"{cell['layers']} layers",
                        DROPOUT[cell["dropout"]],
                        f"{cell['our_samples_per_second']:g}",
                        f"{cell['reference_samples_per_second']:g}",
                        f"{cell['ratio']:g}",
                        f"{cell['useful_gflops']:g}",
                        f"{cell['share_of_matmul_rate']:.0%}",
                    ]
                    for cell in result["pretraining"]
                ],
            ),
            grid(
                ["clicks with PLM", "ours, samples/s", "reference style", "ratio"],
                [row for cell in result["clicks"] for row in _click_rows(cell)],
            ),
            f"Matrix products of 2048 x 2048: {rates['float32']:g} GFLOP/s in float32, "
            f"{rates['bf16']:g} in bf16. Useful arithmetic counts the matrix products of real "
            "tokens only. "
            + " ".join(
                f"With {cell['layers']} layers scoring is "
                f"{cell['scoring_to_finetuning']:g} times as quick as finetuning and reaches "
                f"{cell['scoring_share_of_matmul_rate']:.0%} of the matrix rate."
                for cell in result["clicks"]
            ),
        ]
    )  # fmt: skip


def _click_rows(cell: Mapping[str, Any]) -> list[list[str]]:
    layers = f"{cell['layers']} layers"
    rows = []
    for name, text in (("finetuning", "finetuning"), ("scoring", "scoring")):
        rows.append(
            [
                f"{layers}, {text}",
                f"{cell[f'{name}_our_samples_per_second']:g}",
                f"{cell[f'{name}_reference_samples_per_second']:g}",
                f"{cell[f'{name}_ratio']:g}",
            ]
        )
    frozen = f"{cell['finetuning_frozen_samples_per_second']:g}"
    rows.insert(1, [f"{layers}, finetuning, frozen PLM", frozen, "", ""])
    return rows


def cost_section(result: Mapping[str, Any]) -> str:
    """Memory and time of a pretraining step."""
    waste = result["padding_waste"]
    bands = result["bands"]
    per_token = [1e6 * band["step_seconds"] / band["tokens"] / 256 for band in bands]
    return "\n\n".join(
        [
            "### Memory and time of a pretraining step",
            "```sh\npython -m benchmarks.plm_cost\n```",
            "Peak memory beyond the libraries: weights, gradients, Adam's moments, activations. "
            f"Each cell in a process of its own, over {result['steps']} shuffled batches. "
            f"{origin(result)}",
            grid(
                ["batch", "layers", "K", "parameters", "memory, MiB", "step, s", "samples/s"],
                [
                    [
                        str(cell["batch"]),
                        str(cell["layers"]),
                        str(cell["prompts"]),
                        f"{cell['parameters'] / 1e6:.1f} M",
                        f"{cell['memory_mb']:,}",
                        f"{cell['step_seconds']:.3f}",
                        f"{cell['samples_per_second']:g}",
                    ]
                    for cell in result["cells"]
                ],
            ),
            "Rows of one length, batch 256, 6 layers:",
            grid(
                ["tokens a row", *(f"{band['tokens']:.1f}" for band in bands)],
                [
                    ["step, s", *(f"{band['step_seconds']:.3f}" for band in bands)],
                    ["microseconds a token", *(f"{value:.0f}" for value in per_token)],
                ],
            ),
            f"Padding: {waste['linear_layers']:.1%} of the tokens that linear layers compute are "
            f"not real, {waste['attention']:.1%} of the pairs in attention; rectangles as wide as "
            f"the longest text of a batch would have {waste['rectangles']:.0%}.",
        ]
    )


def accuracy_per_minute_section(result: Mapping[str, Any]) -> str:
    """What pretraining time buys: table and figure."""
    lines = result["summary"]
    device = sorted({cell["device"] for cell in result["cells"]})
    where = (
        "The cells were trained on a GPU; the minutes are their steps at this machine's measured "
        "rate."
        if device == ["cuda"]
        else "The minutes are the cells' steps at this machine's measured rate."
    )
    seeds = sorted({line["seeds"] for line in lines})
    return "\n\n".join(
        [
            "## What pretraining time buys",
            f"```sh\npython -m benchmarks.accuracy_per_minute --seeds {max(seeds)}\n```",
            "Test AUC of finetuning without PLM after pretraining with so many layers, prompts and "
            f"epochs, embedded data; seeds a cell: {', '.join(map(str, seeds))}. {where} "
            f"{origin(result)}",
            f"![test AUC against minutes of pretraining]({FIGURE})",
            grid(
                ["layers", "K", "epochs", "minutes", "valid AUC", "test AUC", "test LogLoss"],
                [
                    [
                        str(line["layers"]) if line["layers"] else "backbone",
                        str(line["prompts"]) if line["layers"] else "",
                        str(line["epochs"]) if line["layers"] else "",
                        f"{line['minutes']:.1f}",
                        f"{line['valid_auc']:.4f}",
                        f"{line['test_auc']:.4f}",
                        f"{line['test_log_loss']:.4f}",
                    ]
                    for line in lines
                ],
            ),
            _advice(lines),
        ]
    )


@dataclass(frozen=True)
class Gain:
    """What pretraining with so many layers for so many epochs brought, over the numbers of prompts.

    Attributes:
        layers: of the PLM.
        epochs: of pretraining.
        cells: numbers of prompts.
        minutes: of pretraining, mean.
        test_auc: mean difference from the backbone of the same seeds, finetuned without PLM.
    """

    layers: int
    epochs: int
    cells: int
    minutes: float
    test_auc: float


def gains(lines: Sequence[Mapping[str, Any]]) -> list[Gain]:
    """The means over the prompts, by layers and epochs, of a summary of what minutes buy."""
    kind = itemgetter("layers", "epochs")
    trained = sorted((line for line in lines if line["layers"]), key=kind)
    (base,) = (line["test_auc"] for line in lines if not line["layers"])
    found = []
    for (layers, epochs), group in groupby(trained, key=kind):
        cells = list(group)
        minutes = sum(line["minutes"] for line in cells) / len(cells)
        gain = sum(line["test_auc"] - base for line in cells) / len(cells)
        found.append(Gain(layers, epochs, len(cells), minutes, gain))
    return found


def _advice(lines: Sequence[Mapping[str, Any]]) -> str:
    """The means over the prompts, which are what single seeds can tell."""
    table = grid(
        ["layers", "epochs", "cells", "minutes", "mean gain in test AUC"],
        [
            [
                str(gain.layers),
                str(gain.epochs),
                str(gain.cells),
                f"{gain.minutes:.1f}",
                f"{gain.test_auc:+.4f}",
            ]
            for gain in gains(lines)
        ],
    )
    return (
        "Mean over the numbers of prompts, against the backbone of the same seeds. Differences "
        "between single cells are smaller than those between seeds (see the accuracy tables "
        f"above):\n\n{table}"
    )


def accuracy_per_minute_figure(result: Mapping[str, Any]) -> str:
    """Test AUC against minutes, a panel for each number of layers, a line for each K."""
    lines = result["summary"]
    (base,) = (line for line in lines if not line["layers"])
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines:
        if line["layers"]:
            panel = panels.setdefault(f"{line['layers']} layers", {})
            start = [(0.0, base["test_auc"])]
            panel.setdefault(f"K = {line['prompts']}", start).append(
                (line["minutes"], line["test_auc"])
            )
    ordered = {
        name: dict(sorted(panel.items(), key=lambda item: int(item[0].split()[-1])))
        for name, panel in panels.items()
    }
    return lines_svg(ordered, "minutes of pretraining", "test AUC without PLM")
