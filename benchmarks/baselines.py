"""The baselines, the ten backbones' best and ClickPrompt in one table: tuned with equal effort.

1. Every model is trained with each of its six settings (:data:`SETTINGS`) on seed 0; the one with
   the highest valid AUC is chosen. Of these trials nothing but valid is kept.
2. Every seed is trained with what was chosen; test serves the report only.

Everything else is what ``conf`` says. Differences from the backbone are tested over the seeds that
both have (paired t, Holm's correction). The comparison may run on a GPU, several trainings
at a time; what a model costs is measured apart (``--cost``), on this machine, one at a time.
Trained stages are kept in ``data/06_models`` and found again, so an interrupted run continues.

    python -m benchmarks.baselines [--seeds 5] [--processes 1] [--device auto]
    python -m benchmarks.baselines --cost
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.project import REPOSITORY, base_parameters, convert_files, embedded_files
from benchmarks.seeds import (
    METRICS,
    best_on_valid,
    compare_over_seeds,
    worker_training,
    workers,
)
from clickprompt.progress import clock

REFERENCE = "backbone"

Changes = Mapping[str, Any]


def _grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations; two underscores stand for a dot."""
    names = [name.replace("__", ".") for name in values]
    return [dict(zip(names, pick, strict=True)) for pick in product(*values.values())]


# Six settings each: what of a model its valid AUC depends on most.
SETTINGS: Mapping[str, list[dict[str, Any]]] = {
    "backbone": _grid(
        backbone__learning_rate_ctr=(8e-3, 1.6e-2), backbone__weight_decay=(3e-5, 1e-4, 3e-4)
    ),
    "longer_backbone": _grid(
        backbone__learning_rate_ctr=(8e-3, 1.6e-2), backbone__weight_decay=(3e-5, 1e-4, 3e-4)
    ),
    "text_features": _grid(
        model__text_features__use=("projected", "averaged"),
        model__text_features__learning_rate_ctr=(4e-3, 8e-3, 1.6e-2),
    ),
    "ctr_bert": _grid(
        model__ctr_bert__learning_rate_ctr=(4e-3, 8e-3),
        model__ctr_bert__learning_rate_plm=(5e-5, 1.5e-4, 5e-4),
    ),
    "p5": _grid(
        model__p5__learning_rate_plm=(5e-4, 1e-3, 2e-3), model__p5__weight_decay_plm=(0.0, 1e-4)
    ),
    "ptab": _grid(
        model__ptab__finetune__learning_rate_plm=(5e-5, 1.5e-4, 5e-4),
        model__ptab__finetune__learning_rate_head=(1e-3, 4e-3),
    ),
    "ctrl": _grid(
        model__ctrl__align__temperature=(0.05, 0.2),
        model__ctrl__finetune__weight_decay=(1e-5, 3e-5, 1e-4),
    ),
    "clickprompt_without_plm": _grid(
        finetune__without_plm__learning_rate_ctr=(8e-3, 1.6e-2),
        finetune__without_plm__weight_decay=(1e-5, 3e-5, 1e-4),
    ),
    "clickprompt_with_plm": _grid(
        finetune__with_plm__learning_rate_ctr=(8e-3, 1.6e-2),
        finetune__with_plm__weight_decay=(1e-5, 3e-5, 1e-4),
    ),
    "clickprompt_distilled": _grid(
        distillation__weight=(0.3, 0.6, 0.9), finetune__without_plm__weight_decay=(1e-5, 3e-5)
    ),
    "clickprompt_masked_ids": _grid(
        pretrain__masked_ids__weight=(0.3, 1.0),
        finetune__without_plm__weight_decay=(1e-5, 3e-5, 1e-4),
    ),
}
MODELS = tuple(SETTINGS)
FOLDER = REPOSITORY / "data" / "05_model_input" / "baselines"


def train(
    model: str, changes: Changes, seed: int, machine: Changes | None = None
) -> dict[str, Any]:
    """Train one model with one setting, or find it.

    Args:
        model: of :data:`MODELS`.
        changes: of the parameters, by dotted name.
        seed: of the training.
        machine: more changes, of what says where is trained.

    Returns:
        ``model``, ``seed``, ``changes``, ``metrics``, ``parameters`` (in serving), ``seconds`` (of
        all of its stages) and ``scored_rows_per_second``.
    """
    from clickprompt.modality import ModelInput
    from clickprompt.nested import nested
    from clickprompt.pipelines.baseline.nodes import train_baseline
    from clickprompt.training import baselines, stages

    named = {"model.name": model} if model not in OWN else {}
    known = base_parameters(changes=nested({**changes, **named, **(machine or {})}))
    model_input = ModelInput.open(FOLDER)
    training = worker_training(known.training)
    shared: dict[str, Any] = {"model_input": model_input, "training": training, "seed": seed}
    text = {"ctr": known.ctr, "plm": known.plm, "prompts": known.prompts}
    stages_seconds = 0.0
    if model == "backbone":
        trained = stages.train_backbone(**shared, ctr=known.ctr, stage=known.backbone)
    elif model in OWN:
        pretrained = stages.pretrain(**shared, **text, stage=known.pretrain)
        stages_seconds = pretrained.report["seconds"]
        if model in ("clickprompt_with_plm", "clickprompt_distilled"):
            trained = stages.finetune_with_plm(
                **shared, **text, pretrained=pretrained, stage=known.finetune.with_plm
            )
        if model in ("clickprompt_without_plm", "clickprompt_masked_ids"):
            trained = stages.finetune_without_plm(
                **shared, ctr=known.ctr, pretrained=pretrained, stage=known.finetune.without_plm
            )
        if model == "clickprompt_distilled":
            stages_seconds += trained.report["seconds"]
            trained = baselines.distil(
                **shared,
                **text,
                pretrained=pretrained,
                teacher=trained,
                with_plm=known.finetune.with_plm,
                stage=known.finetune.without_plm,
                distillation=known.distillation,
            )
    else:
        trained, _, _ = train_baseline(
            model_input,
            known.ctr,
            known.plm,
            known.model,
            known.backbone,
            known.pretrain,
            known.finetune.without_plm,
            training,
            seed,
        )
        before = trained.report["parameters"].get("pretrained")
        stages_seconds = 0.0 if before is None else _seconds_of(before, training.folder)
    return {
        "model": model,
        "seed": seed,
        "changes": dict(changes),
        "metrics": trained.report["metrics"],
        "plm": trained.report["plm"],
        "parameters": sum(trained.report["parameter_counts"].values()),
        "device": trained.report["device"],
        "precision": trained.report["precision"],
        "seconds": stages_seconds + trained.report["seconds"],
        "scored_rows_per_second": trained.report.get("scored_rows_per_second"),
    }


OWN = (
    "backbone",
    "clickprompt_without_plm",
    "clickprompt_with_plm",
    "clickprompt_distilled",
    "clickprompt_masked_ids",
)


def compare(
    models: Sequence[str],
    seeds: int,
    processes: int = 1,
    machine: Changes | None = None,
) -> dict[str, Any]:
    """Tune the models with equal effort, then train all seeds and test once.

    Args:
        models: of :data:`MODELS`.
        seeds: of each model.
        processes: at work at the same time.
        machine: parameters that say where is trained.
    """
    tuning: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, Any]] = {}
    results: list[dict[str, Any]] = []
    with workers(processes) as pool:

        def run(jobs: Sequence[Job], metric: str) -> dict[Job, dict[str, Any]]:
            """In waves: what several jobs start from is trained by the first of them."""
            done: dict[Job, dict[str, Any]] = {}
            for wave in waves(jobs):
                futures = {pool.submit(train, *job.given(), machine): job for job in wave}
                for future in as_completed(futures):
                    job = futures[future]
                    done[job] = future.result()
                    _tell(f"{len(done)} of {len(jobs)}, {job.model}, seed {job.seed}", done[job],
                          metric)  # fmt: skip
            return done

        trials = [Job(m, number, 0) for m in models for number in range(len(SETTINGS[m]))]
        tried = run(trials, "valid_auc")
        repeated: list[Job] = []
        for model in models:
            own = {job: entry for job, entry in tried.items() if job.model == model}
            best = best_on_valid([own[job] for job in sorted(own)])
            chosen[model] = best["changes"]
            tuning += [_trial(own[job]) for job in sorted(own)]
            number = SETTINGS[model].index(best["changes"])
            repeated += [Job(model, number, seed) for seed in range(seeds)]
        final = run(repeated, "test_auc")
        results = [_result(final[job]) for job in repeated]
    return {
        "settings": {model: len(SETTINGS[model]) for model in models},
        "tuning": tuning,
        "chosen": chosen,
        "results": results,
        "summary": [_mean([row for row in results if row["model"] == m]) for m in models],
        "tests": compare_over_seeds(results, REFERENCE) if REFERENCE in models else [],
    }


@dataclass(frozen=True, order=True)
class Job:
    """One training: a model, the number of its setting, a seed."""

    model: str
    setting: int
    seed: int

    def given(self) -> tuple[str, dict[str, Any], int]:
        """What :func:`train` is called with."""
        return self.model, SETTINGS[self.model][self.setting], self.seed


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that may run together: none starts from a stage that another one is training.

    In the first wave are one job of each stage that others start from, and all that stand alone;
    distillation comes last, since its teachers may be among the others.
    """
    first: list[Job] = []
    later: list[Job] = []
    teachers: list[Job] = []
    distilled: list[Job] = []
    seen: set[tuple[object, ...]] = set()
    taught: set[int] = set()
    for job in jobs:
        if job.model == "clickprompt_distilled":
            (distilled if job.seed in taught else teachers).append(job)
            taught.add(job.seed)
            continue
        shared = _starts_from(job)
        (later if shared in seen else first).append(job)
        seen.add(shared)
    return [wave for wave in (first, later, teachers, distilled) if wave]


def _starts_from(job: Job) -> tuple[object, ...]:
    """Names the pretraining, or the job itself where there is none."""
    _, changes, seed = job.given()
    match job.model:
        case "clickprompt_with_plm" | "clickprompt_without_plm":
            return ("pretrain", seed)
        case "ptab":
            return ("ptab", seed)
        case "ctrl":
            return ("ctrl", changes["model.ctrl.align.temperature"], seed)
        case "clickprompt_masked_ids":
            return ("masked", changes["pretrain.masked_ids.weight"], seed)
        case _:
            return (job,)


def _seconds_of(digest: str, folder: str) -> float:
    """Of the stage that came before."""
    import json

    (path,) = Path(folder).glob(f"*/{digest[:16]}/result/report.json")
    seconds: float = json.loads(path.read_text(encoding="utf-8"))["seconds"]
    return seconds


def _trial(entry: Mapping[str, Any]) -> dict[str, Any]:
    valid = {name: entry["metrics"][f"valid_{name}"] for name in METRICS}
    return {"model": entry["model"], "changes": entry["changes"], "seconds": entry["seconds"]} | {
        f"valid_{name}": value for name, value in valid.items()
    }


def _result(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "model",
        "seed",
        "device",
        "precision",
        "plm",
        "parameters",
        "seconds",
        "scored_rows_per_second",
    )
    return {name: entry[name] for name in names} | {
        name: entry["metrics"][f"test_{name}"] for name in METRICS
    }


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and sample deviations of one model over its seeds."""
    line: dict[str, Any] = {name: rows[0][name] for name in ("model", "plm", "parameters")}
    line["seeds"] = len(rows)
    for metric in METRICS:
        values = [row[metric] for row in rows]
        line[metric] = statistics.fmean(values)
        line[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    return line


def _tell(what: str, entry: Mapping[str, Any], metric: str) -> None:
    told = f"{what}: {metric} {entry['metrics'][metric]:.4f}, {clock(entry['seconds'])}"
    print(f"{time.strftime('%H:%M')} {told}, {entry['changes']}", file=sys.stderr, flush=True)


def _constant_log_loss(model_input: Any) -> float:
    """Of the train rate as every prediction, on test."""
    import numpy as np

    from clickprompt.evaluation.metrics import log_loss

    labels = np.asarray(model_input.labels[model_input.rows("test")])
    rate = float(np.mean(model_input.labels[model_input.rows("train")]))
    return log_loss(labels, np.full(len(labels), rate))


def _device(name: str) -> str:
    """What a person calls it."""
    import torch

    gpu = torch.cuda.is_available() and name != "cpu"
    return torch.cuda.get_device_name() if gpu else "this machine's CPU"


def cost(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Seconds of training and rows a second of scoring, one training each as ``conf`` says.

    On this machine, one model at a time with all cores, whatever the comparison ran on.
    """
    measured = {}
    for model in models:
        first = SETTINGS[model][0] if model == "clickprompt_masked_ids" else {}
        entry = train(model, first, seed=0)
        _tell(f"{model}, cost", entry, "valid_auc")
        names = ("device", "precision", "seconds", "scored_rows_per_second")
        measured[model] = {name: entry[name] for name in names}
    return measured


def main() -> None:
    """Run from the command line and write ``benchmarks/results/baselines.json``."""
    import json

    from benchmarks.results import FOLDER as RESULTS
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument("--processes", type=int, default=1, help="at work at the same time")
    parser.add_argument("--device", default="auto", help="that the comparison is trained on")
    parser.add_argument(
        "--cost", action="store_true", help="measure the cost alone; the comparison stays"
    )
    given = parser.parse_args()
    parameters = base_parameters()
    model_input = convert_files(embedded_files(), FOLDER, parameters)
    if given.cost:
        written = json.loads((RESULTS / "baselines.json").read_text(encoding="utf-8"))
        result = written | {"cost": written.get("cost", {}) | cost(given.models)}
    else:
        result = {
            "data_digest": model_input.digest,
            "rows": len(model_input.labels),
            "trained_on": f"{_device(given.device)}, {given.processes} at a time",
            "constant_log_loss": _constant_log_loss(model_input),
            **compare(
                given.models, given.seeds, given.processes, {"training.device": given.device}
            ),
        }
    print(f"written: {write_result('baselines', result)}")


if __name__ == "__main__":
    main()
