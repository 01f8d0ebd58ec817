"""Memory and time of a pretraining step, by batch size, encoder layers, prompts and text length.

Each cell runs in a process of its own: warm-up, then steps over shuffled batches of the embedded
data (MiniLM, DCNv2), whose shapes all differ. Memory is what the peak of the process adds to its
size before the model is built: weights, gradients, Adam's moments, activations, and whatever the
allocator keeps. Text length is varied by choosing the rows: bands of the data's own lengths.
Padding waste is what is computed beyond real tokens: in linear layers (tokens are packed), and in
attention (rows attend in groups).

    python -m benchmarks.plm_cost
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ctr_cost import reset_peak
from benchmarks.measured import own_peak_mb, run_measured
from benchmarks.plm_steps import our_step, seconds_of, with_plm
from benchmarks.project import REPOSITORY, base_parameters, convert_files, embedded_files

# batch, layers, prompts: each varied alone
BASE = (256, 6, 5)
CELLS = (
    BASE,
    *((batch, 6, 5) for batch in (64, 128, 512)),
    *((256, layers, 5) for layers in (1, 2, 4)),
    *((256, 6, prompts) for prompts in (1, 10, 20)),
)
STEPS = 14
WARM_UP = 4
# shares of the rows, sorted by length, that make a band
BANDS = ((0.0, 0.1), (0.2, 0.3), (0.45, 0.55), (0.7, 0.8), (0.9, 1.0))


def run() -> dict[str, Any]:
    """All cells, the bands of length, and the padding waste."""
    folder = REPOSITORY / "data" / "05_model_input" / "plm_cost"
    model_input = convert_files(embedded_files(), folder, base_parameters())
    cells = [_measured(folder, *cell) for cell in dict.fromkeys(CELLS)]
    return {
        "steps": STEPS,
        "mean_tokens": round(float(model_input.text_lengths().mean()), 2),
        "cells": cells,
        "bands": _measured(folder, *BASE, bands=True)["bands"],
        "padding_waste": padding_waste(model_input, BASE[0]),
    }


def padding_waste(model_input: Any, batch_size: int, batches: int = 50) -> dict[str, float]:
    """Slots that are computed for nothing, as a share of the real ones, over some train batches."""
    import torch

    from clickprompt.modality import TextBatcher, shuffled_batches
    from clickprompt.plm.encoder import ROWS_OF_GROUP
    from clickprompt.plm.slots import row_groups, text_slots

    lengths = model_input.text_lengths()
    rows = np.arange(model_input.rows("train").stop)
    text = TextBatcher(model_input)
    real = packed = pairs = computed = rectangle = 0
    for chosen in shuffled_batches(rows, batch_size, 0, 0, lengths)[:batches]:
        token_ids_BN, length_B = text.tokens(chosen, multiple_of=2)
        mask_BN = torch.arange(token_ids_BN.shape[1]) < torch.from_numpy(length_B)[:, None]
        slots = text_slots(mask_BN)
        real += int(length_B.sum())
        packed += len(slots.at_T)
        rectangle += mask_BN.numel()
        pairs += int((length_B.astype(np.int64) ** 2).sum())
        groups = row_groups(slots, mask_BN, ROWS_OF_GROUP)
        computed += sum(group.rows * group.slots.width**2 for group in groups)
    return {
        "linear_layers": round(packed / real - 1, 4),
        "attention": round(computed / pairs - 1, 4),
        "rectangles": round(rectangle / real - 1, 4),
    }


def measure(folder: Path, batch: int, layers: int, prompts: int, *, bands: bool) -> dict[str, Any]:
    """One cell, in this process."""
    from clickprompt.modality import ModelInput
    from clickprompt.training.machine import choose_machine, release_freed_memory
    from clickprompt.training.objectives import MaskedTokenObjective

    parameters = with_plm(base_parameters(), keep_layers=layers)
    parameters = parameters.model_copy(
        update={"prompts": parameters.prompts.model_copy(update={"count": prompts})}
    )
    model_input = ModelInput.open(folder)
    machine = choose_machine(parameters.training)
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=parameters.pretrain.masking,
        batch_size=batch,
        evaluation_batch_size=batch,
        seed=0,
    )
    import transformers  # noqa: F401, its own size is not that of the model

    release_freed_memory()
    reset_peak()
    before = own_peak_mb()
    model, step = our_step(parameters, model_input, objective)
    seconds = []
    for number, rows in enumerate(objective.batches(0)[: WARM_UP + STEPS]):
        seconds.append(seconds_of(lambda r=rows, n=number: step(r, n)))
        if number % 10 == 9:  # as the training loop does
            release_freed_memory()
    result: dict[str, Any] = {
        "batch": batch,
        "layers": layers,
        "prompts": prompts,
        "precision": machine.precision,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "memory_mb": own_peak_mb() - before,
        "step_seconds": round(statistics.median(seconds[WARM_UP:]), 4),
    }
    result["samples_per_second"] = round(batch / result["step_seconds"], 1)
    if bands:
        result["bands"] = [
            {"tokens": tokens, "step_seconds": _band_seconds(step, rows)}
            for tokens, rows in _bands(model_input, batch)
        ]
    return result


def _bands(model_input: Any, batch: int) -> Iterator[tuple[float, list[np.ndarray]]]:
    """Mean length and batches of the train rows in each band."""
    lengths = model_input.text_lengths()[: model_input.rows("train").stop]
    order = np.argsort(lengths, kind="stable")
    draw = np.random.Generator(np.random.Philox(0))
    for low, high in BANDS:
        part = draw.permutation(order[int(low * len(order)) : int(high * len(order))])
        chosen = part[: batch * (2 + STEPS // 2)]
        yield float(lengths[chosen].mean()), np.split(chosen, len(chosen) // batch)


def _band_seconds(step: Any, batches: list[np.ndarray]) -> float:
    seconds = [
        seconds_of(lambda r=rows, n=number: step(r, n)) for number, rows in enumerate(batches)
    ]
    return round(statistics.median(seconds[2:]), 4)


def _measured(
    folder: Path, batch: int, layers: int, prompts: int, *, bands: bool = False
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.plm_cost", "--measure", str(folder)]
    found = run_measured(
        [*command, str(batch), str(layers), str(prompts), str(int(bands))],
        folder=REPOSITORY,
        environment={"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
    ).result
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run from the command line, or one cell for :func:`run`."""
    from benchmarks.results import write_result

    if sys.argv[1:2] == ["--measure"]:
        folder, *numbers = sys.argv[2:]
        batch, layers, prompts, bands = map(int, numbers)
        found = measure(Path(folder), batch, layers, prompts, bands=bool(bands))
        print("\n" + json.dumps(found))
        return
    print(f"written: {write_result('plm_cost', run())}")


if __name__ == "__main__":
    main()
