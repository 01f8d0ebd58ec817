"""What pretraining time buys: AUC without the PLM, by encoder layers, prompts and epochs.

Each cell (layers L, prompts K, epochs of pretraining) is pretrained from the checkpoint with its
own schedule, then finetuned without the PLM, over several seeds; everything else is what ``conf``
says. No choice is made, so valid and test are both reported. The backbone from scratch is the zero
of the time axis.

Training speed is measured apart, on this machine and alone: the cells may be trained several at a
time, or on a GPU (``--device``), whose seconds say nothing of a processor. The time of a cell is
then its steps by this machine's rate.

    python -m benchmarks.accuracy_per_minute [--seeds 3] [--epochs 1 2 4] [--processes 1]

Trained stages are kept in ``data/06_models`` and found again, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.project import REPOSITORY
from benchmarks.seeds import worker_training, workers
from clickprompt.progress import clock

LAYERS = (2, 4, 6)
PROMPTS = (1, 3, 5, 7, 10)
EPOCHS = (1, 2, 4)
METRICS = ("valid_auc", "valid_log_loss", "test_auc", "test_log_loss")
TIMED_STEPS = 12


@dataclass(frozen=True)
class Cell:
    """One pretraining and the finetuning after it; no layers: the backbone from scratch."""

    seed: int
    layers: int = 0
    prompts: int = 0
    epochs: int = 0


def cells(
    layers: Sequence[int], prompts: Sequence[int], epochs: Sequence[int], seeds: int
) -> Iterator[Cell]:
    """Whole seeds one after the other, so that what an interruption leaves is a whole table."""
    for seed in range(seeds):
        yield Cell(seed)
        # the longest first: the processes then end together
        for number, depth, count in product(sorted(epochs)[::-1], sorted(layers)[::-1], prompts):
            yield Cell(seed, depth, count, number)


def train_all(
    parameters: Any, folder: Path, jobs: Sequence[Cell], processes: int
) -> Iterator[dict[str, Any]]:
    """Train the cells, several at a time; each as it comes, with the stages' own seconds."""
    started = time.monotonic()
    with workers(processes) as pool:
        waiting = [pool.submit(train, parameters, folder, cell) for cell in jobs]
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                left = (time.monotonic() - started) / done * (len(jobs) - done)
                entry = future.result()
                print(
                    f"{done} of {len(jobs)}: {entry['layers']} layers, {entry['prompts']} prompts, "
                    f"{entry['epochs']} epochs, seed {entry['seed']}: test AUC "
                    f"{entry['test_auc']:.4f}, about {clock(left)} left",
                    file=sys.stderr,
                    flush=True,
                )
                yield entry
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def train(parameters: Any, folder: Path, cell: Cell) -> dict[str, Any]:
    """One cell, or what is stored of it, in a process of its own."""
    from clickprompt.modality import ModelInput
    from clickprompt.training import stages

    settings: dict[str, Any] = {
        "model_input": ModelInput.open(folder),
        "ctr": parameters.ctr,
        "training": worker_training(parameters.training),
        "seed": cell.seed,
    }
    if cell.layers:
        pretrained = stages.pretrain(
            **settings,
            plm=parameters.plm.model_copy(update={"keep_layers": cell.layers}),
            prompts=parameters.prompts.model_copy(update={"count": cell.prompts}),
            stage=parameters.pretrain.model_copy(update={"epochs": cell.epochs}),
        )
        trained = stages.finetune_without_plm(
            **settings, pretrained=pretrained, stage=parameters.finetune.without_plm
        )
        mlm = {name: value for name, value in pretrained.report["metrics"].items()}
        seconds = pretrained.report["seconds"]
    else:
        trained = stages.train_backbone(**settings, stage=parameters.backbone)
        mlm, seconds = {}, 0.0
    return {
        **vars(cell),
        **{name: trained.report["metrics"][name] for name in METRICS},
        "mlm_loss_on": mlm.get("valid_mlm_loss_prompts_on"),
        "mlm_loss_off": mlm.get("valid_mlm_loss_prompts_off"),
        "device": trained.report["device"],
        "precision": trained.report["precision"],
        "pretraining_seconds": seconds,
        "finetuning_seconds": trained.report["seconds"],
    }


def rates(
    parameters: Any, model_input: Any, layers: Sequence[int], prompts: Sequence[int]
) -> list[dict[str, Any]]:
    """Pretraining samples a second on this machine, for each number of layers and prompts.

    The median of some steps: another process of the machine must not count.
    """
    from benchmarks.pretraining_step import our_step
    from clickprompt.training.machine import choose_machine
    from clickprompt.training.objectives import MaskedTokenObjective

    machine = choose_machine(parameters.training)
    stage = parameters.pretrain
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=stage.masking,
        batch_size=stage.batch_size,
        evaluation_batch_size=stage.batch_size,
        seed=0,
    )
    batches = objective.batches(0)
    measured = []
    for depth, count in product(layers, prompts):
        changed = parameters.model_copy(
            update={
                "plm": parameters.plm.model_copy(update={"keep_layers": depth}),
                "prompts": parameters.prompts.model_copy(update={"count": count}),
            }
        )
        _, step = our_step(changed, model_input, objective)
        seconds = []
        for number, rows in enumerate(batches[: TIMED_STEPS + 3]):
            start = time.perf_counter()
            step(rows, number)
            seconds.append(time.perf_counter() - start)
        rate = stage.batch_size / statistics.median(seconds[3:])
        measured.append(
            {
                "layers": depth,
                "prompts": count,
                "samples_per_second": round(rate, 1),
                "precision": machine.precision,
            }
        )
    return measured


def summarise(
    entries: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]], rows: int
) -> list[dict[str, Any]]:
    """A line a cell: mean and deviation over the seeds, minutes of pretraining on this machine."""
    rate = {(m["layers"], m["prompts"]): m["samples_per_second"] for m in measured}
    lines = []
    for key in sorted({(e["layers"], e["prompts"], e["epochs"]) for e in entries}):
        layers, prompts, epochs = key
        found = [e for e in entries if (e["layers"], e["prompts"], e["epochs"]) == key]
        minutes = epochs * rows / rate[layers, prompts] / 60 if layers else 0.0
        line: dict[str, Any] = {"layers": layers, "prompts": prompts, "epochs": epochs}
        line |= {"seeds": len(found), "minutes": round(minutes, 2)}
        for name in METRICS:
            values = [e[name] for e in found]
            line[name] = statistics.fmean(values)
            line[f"{name}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
        lines.append(line)
    return lines


def main() -> None:
    """Run from the command line and write ``benchmarks/results/accuracy_per_minute.json``."""
    from benchmarks.project import base_parameters, convert_files, embedded_files
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS)
    parser.add_argument("--processes", type=int, default=1, help="at work at the same time")
    parser.add_argument("--device", default="auto", help="that the cells are trained on")
    given = parser.parse_args()
    parameters = base_parameters()
    folder = REPOSITORY / "data" / "05_model_input" / "accuracy_per_minute"
    model_input = convert_files(embedded_files(), folder, parameters)
    measured = rates(parameters, model_input, given.layers, given.prompts)
    training = parameters.training.model_copy(update={"device": given.device})
    jobs = list(cells(given.layers, given.prompts, given.epochs, given.seeds))
    entries = list(
        train_all(
            parameters.model_copy(update={"training": training}), folder, jobs, given.processes
        )
    )
    result = {
        "data_digest": model_input.digest,
        "rows": len(model_input.labels[model_input.rows("train")]),
        "rates": measured,
        "cells": sorted(entries, key=lambda e: tuple(e[k] for k in vars(Cell(0)))),
    }
    result["summary"] = summarise(entries, measured, result["rows"])
    print(f"written: {write_result('accuracy_per_minute', result)}")


if __name__ == "__main__":
    main()
