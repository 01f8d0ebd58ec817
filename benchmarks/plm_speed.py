"""Pretraining, finetuning and scoring with the PLM against steps in the authors' style.

Layers 6 and 2 of the embedded MiniLM, with the checkpoint's dropout and, in pretraining, without;
all steps of ``benchmarks.plm_steps``, both styles taking turns in one process. Before timing, both
are shown to compute the same loss, or logits, on one batch in float64. The result also holds the
machine's matrix-multiply rate and the share of it that our useful arithmetic (matrix products of
real tokens only) reaches.

    python -m benchmarks.plm_speed [--turns 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.plm_steps import (
    BATCH,
    inputs,
    loss_difference,
    matmul_rate,
    our_clicks,
    our_step,
    reference_clicks,
    reference_step,
    seconds_of,
    useful_flops,
    useful_flops_of_scoring,
    with_plm,
)

LAYERS = (6, 2)
# Names of the result: dropout of the checkpoint, or none.
DROPOUTS = {"checkpoint": None, "none": 0.0}
OUR_STEPS = 10  # in a turn, against one of the reference style
WARM_UP = 3


def run(turns: int = 3, layers: Sequence[int] = LAYERS) -> dict[str, Any]:
    """Samples per second of both styles, their ratios and the arithmetic rate.

    Args:
        turns: of each style; the medians count.
        layers: of the encoder.
    """
    import torch

    from clickprompt.training.machine import choose_machine

    parameters, model_input, sentences, tokenizer = inputs()
    machine = choose_machine(parameters.training)
    longest = int(model_input.text_lengths().max())
    peak = {
        name: matmul_rate(kind)
        for name, kind in (("float32", torch.float32), ("bf16", torch.bfloat16))
    }
    read = (model_input, sentences, tokenizer, longest)
    pretraining = [
        {
            "layers": depth,
            "dropout": name,
            **_pretraining(
                with_plm(parameters, keep_layers=depth, dropout=dropout), read, machine, turns
            ),
        }
        for depth in layers
        for name, dropout in DROPOUTS.items()
    ]
    clicks = [
        {"layers": depth, **_clicks(with_plm(parameters, keep_layers=depth), read, machine, turns)}
        for depth in layers
    ]
    for cell in pretraining:
        cell["share_of_matmul_rate"] = round(
            cell["useful_gflops"] * 1e9 / peak[machine.precision], 3
        )
    for cell in clicks:
        cell["scoring_share_of_matmul_rate"] = round(
            cell["scoring_useful_gflops"] * 1e9 / peak[machine.precision], 3
        )
    return {
        "batch": BATCH,
        "precision": machine.precision,
        "mean_tokens": round(float(model_input.text_lengths().mean()), 2),
        "longest_tokens": longest,
        "active_vocabulary": len(model_input.active_tokens),
        "vocabulary": len(tokenizer),
        "matmul_gflops": {name: round(rate / 1e9, 1) for name, rate in peak.items()},
        "pretraining": pretraining,
        "clicks": clicks,
    }


def _pretraining(parameters: Any, read: Any, machine: Any, turns: int) -> dict[str, Any]:
    from clickprompt.training.objectives import MaskedTokenObjective

    model_input, sentences, tokenizer, longest = read
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=parameters.pretrain.masking,
        batch_size=BATCH,
        evaluation_batch_size=BATCH,
        seed=0,
    )
    ours, ours_step = our_step(parameters, model_input, objective)
    reference, theirs_step = reference_step(parameters, model_input, sentences, tokenizer, longest)
    difference = loss_difference(ours, reference, objective, longest)
    batches = objective.batches(0)
    numbered = dict(enumerate(batches))

    def step(number: int) -> None:
        ours_step(numbered[number], number)

    our_seconds, reference_seconds = take_turns(
        step, lambda number: theirs_step(numbered[number]), turns
    )
    flops = statistics.fmean(
        useful_flops(parameters, model_input, rows, ours) for rows in batches[:20]
    )
    cell = _rates("", our_seconds, reference_seconds)
    cell["useful_gflops"] = round(flops / statistics.median(our_seconds) / 1e9, 1)
    cell["same_loss_relative_difference"] = difference
    _tell(parameters, "pretraining", cell)
    return cell


def _clicks(parameters: Any, read: Any, machine: Any, turns: int) -> dict[str, Any]:
    from clickprompt.training.objectives import ClickObjective

    model_input, sentences, tokenizer, longest = read
    objective = ClickObjective(
        model_input=model_input,
        machine=machine,
        batch_size=BATCH,
        evaluation_batch_size=BATCH,
        seed=0,
        text=True,
    )
    batches = objective.batches(0)
    lengths = model_input.text_lengths()
    sorted_rows = np.concatenate(batches[:64])
    sorted_rows = sorted_rows[np.argsort(lengths[sorted_rows], kind="stable")]
    # as in scoring: similar lengths together, but short and long ones both
    scored = np.split(sorted_rows, len(sorted_rows) // BATCH)[::3]
    model, trained_step, score = our_clicks(parameters, model_input, objective, rate=5e-5)
    _, frozen_step, _ = our_clicks(parameters, model_input, objective, rate=0.0)
    reference, theirs_step, theirs_score = reference_clicks(
        parameters, model_input, sentences, tokenizer, longest
    )
    difference = _logit_difference(model, reference, objective, theirs_score, batches[0][:32])
    trained, theirs = take_turns(
        lambda n: trained_step(batches[n]), lambda n: theirs_step(batches[n]), turns
    )
    frozen, _ = take_turns(lambda n: frozen_step(batches[n]), None, turns)
    scoring, theirs_scoring = take_turns(
        lambda n: score(scored[n % len(scored)]),
        lambda n: theirs_score(scored[n % len(scored)]),
        turns,
    )
    flops = statistics.fmean(
        useful_flops_of_scoring(parameters, model_input, rows, model) for rows in scored
    )
    cell = _rates("finetuning_", trained, theirs)
    cell["finetuning_frozen_samples_per_second"] = round(BATCH / statistics.median(frozen), 1)
    # the mean, since the batches differ in length
    cell |= _rates("scoring_", [statistics.fmean(scoring)], [statistics.fmean(theirs_scoring)])
    cell["scoring_useful_gflops"] = round(flops / statistics.fmean(scoring) / 1e9, 1)
    cell["scoring_to_finetuning"] = round(
        cell["scoring_our_samples_per_second"] / cell["finetuning_our_samples_per_second"], 2
    )
    cell["same_logits_difference"] = difference
    _tell(parameters, "clicks", cell)
    return cell


def take_turns(
    ours: Callable[[int], object], theirs: Callable[[int], object] | None, turns: int
) -> tuple[list[float], list[float]]:
    """Seconds of each step: one of theirs, then ``OUR_STEPS`` of ours, and again."""
    for number in range(WARM_UP):
        ours(number)
    if theirs is not None:
        theirs(0)
    our_seconds, their_seconds = [], []
    for turn in range(turns):
        if theirs is not None:
            their_seconds.append(seconds_of(lambda n=turn: theirs(n)))
        for number in range(turn * OUR_STEPS, (turn + 1) * OUR_STEPS):
            our_seconds.append(seconds_of(lambda n=number: ours(WARM_UP + n)))
    return our_seconds, their_seconds


def _rates(
    prefix: str, our_seconds: Sequence[float], their_seconds: Sequence[float]
) -> dict[str, Any]:
    ours = BATCH / statistics.median(our_seconds)
    theirs = BATCH / statistics.median(their_seconds)
    return {
        f"{prefix}our_samples_per_second": round(ours, 1),
        f"{prefix}reference_samples_per_second": round(theirs, 2),
        f"{prefix}ratio": round(ours / theirs, 2),
    }


def _logit_difference(
    ours: Any, reference: Any, objective: Any, theirs_score: Any, rows: np.ndarray
) -> float:
    """Largest relative difference of the logits of both styles, float64."""
    import torch

    with torch.no_grad():
        ours.eval().double(), reference.eval().double()
        mine = objective.logits(ours, objective.prepare(rows)).numpy()
        theirs = theirs_score(rows)
        ours.float(), reference.float()
    # float32: `ClickPromptForClicks` gives the CTR model's logit in it
    difference = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
    if difference > 1e-5:
        raise AssertionError(f"both styles must compute the same logits, got {difference}")
    return difference


def _tell(parameters: Any, what: str, cell: dict[str, Any]) -> None:
    print(parameters.plm.keep_layers, parameters.plm.dropout, what, json.dumps(cell),
          file=sys.stderr, flush=True)  # fmt: skip


def main() -> None:
    """Run from the command line and write ``benchmarks/results/plm_speed.json``."""
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    result = run(parser.parse_args().turns)
    print(f"written: {write_result('plm_speed', result)}")


if __name__ == "__main__":
    main()
