"""The ten backbones on the embedded data: several seeds, tuned with equal effort.

1. Every model is trained with each pair (learning rate, weight decay) of one grid, on seed 0; the
   pair with the highest valid AUC is chosen. Of these trials nothing but valid is kept.
2. Every seed is trained with the chosen pair; test serves the report only.

Sizes are ``ctr_sizes`` of ``conf``, all else is its ``backbone``. Differences are tested over seeds
(paired t, Holm's correction). Trained stages are kept in ``data/06_models`` and found again, so an
interrupted run continues.

    python -m benchmarks.backbones [--env base] [--seeds 5] [--processes 2] [--models fm dcnv2]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, as_completed
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
from clickprompt.parameters import CTR_MODELS
from clickprompt.progress import clock

# Rows of the table that are no model of their own: name -> CTR model and the sizes that differ.
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "autoint_without_deep": ("autoint", {"hidden_sizes": ()}),
}
MODELS = (*CTR_MODELS, *VARIANTS)
REFERENCE = "dcnv2"  # the backbone of ClickPrompt


@dataclass(frozen=True)
class Grid:
    """What tuning tries: all pairs."""

    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]


# Wide enough that few models choose an end of it (the results page names those).
GRID = Grid(learning_rates=(4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2), weight_decays=(3e-5, 1e-4, 3e-4))


@dataclass(frozen=True)
class Trial:
    """One training: a model, a pair of the grid, a seed."""

    model: str
    learning_rate: float
    weight_decay: float
    seed: int


def compare(
    parameters: Any,
    model_input: Any,
    *,
    models: Sequence[str],
    grid: Grid,
    seeds: int,
    processes: int,
) -> dict[str, Any]:
    """Tune the models with equal effort, then train all seeds and test once.

    Args:
        parameters: checked parameters; ``ctr_sizes``, ``backbone`` and ``training`` are used.
        model_input: the data.
        models: of :data:`MODELS`.
        grid: tried on seed 0.
        seeds: their number; they are 0, 1, ...
        processes: at work at the same time; they share the cores.

    Returns:
        - ``seeds``, ``rows`` (labelled), ``data_digest``, ``precision``, ``stage`` (epochs, ...);
        - ``grid``, ``tuning`` (a row a trial: valid metrics only, null where it diverged),
          ``chosen`` (model -> pair);
        - ``results``: a row a model and seed with the test metrics, the best epoch, the number of
          parameters and the seconds;
        - ``summary``: a row a model with means and sample deviations (null for one seed);
        - ``tests``: a list for each reference, DCNv2 and the best on valid (mean over seeds);
        - ``seconds_of_stages``.

    Raises:
        ValueError: a model is unknown, seeds is below 1, or training diverged: a model's with every
            pair, or one of the seeds'.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    for model in models:
        if model not in MODELS:
            raise ValueError(f"a model must be one of {', '.join(MODELS)}, got {model!r}")
    pairs = list(product(grid.learning_rates, grid.weight_decays))
    with workers(processes) as pool:

        def work(name: str, trials: list[Trial]) -> list[dict[str, Any]]:
            jobs = {pool.submit(train, t, parameters, model_input.folder): t for t in trials}
            try:
                return _collect(jobs, processes, name)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

        # models change fastest, so that the times of all are soon known
        tuned = work("tuning", [Trial(m, *pair, seed=0) for pair in pairs for m in models])
        chosen: dict[str, tuple[float, float]] = {}
        for model in models:
            best = best_on_valid(_finite([e for e in tuned if e["model"] == model]))
            chosen[model] = (best["learning_rate"], best["weight_decay"])
        trained = work(
            "seeds", [Trial(m, *chosen[m], seed=s) for s in range(seeds) for m in models]
        )
    for entry in trained:
        _finite([entry])
    results = [_result(entry) for entry in trained]
    summary = [_mean([row for row in results if row["model"] == model]) for model in models]
    best_model = max(summary, key=lambda row: row["valid_auc"])["model"]
    references = [model for model in dict.fromkeys((REFERENCE, best_model)) if model in models]
    stage = parameters.backbone
    return {
        "seeds": seeds,
        "rows": len(model_input.labels),
        "data_digest": model_input.digest,
        "precision": trained[0]["precision"],
        "stage": {
            name: getattr(stage, name)
            for name in ("epochs", "patience", "batch_size", "schedule", "decay")
        },
        "grid": {
            "learning_rate": list(grid.learning_rates),
            "weight_decay": list(grid.weight_decays),
        },
        "tuning": [_trial(entry) for entry in tuned],
        "chosen": {
            model: {"learning_rate": rate, "weight_decay": decay}
            for model, (rate, decay) in chosen.items()
        },
        "results": results,
        "summary": summary,
        "tests": {model: compare_over_seeds(results, model) for model in references},
        "seconds_of_stages": round(
            sum(entry["seconds"] for entry in tuned)
            + sum(entry["seconds"] for entry in trained if entry["seed"] > 0),  # 0 is in tuning
            1,
        ),
    }


def train(trial: Trial, parameters: Any, folder: Path) -> dict[str, Any]:
    """Train one backbone, or find it, in a process of its own.

    A diverged one has ``metrics`` null and says why in ``diverged``: a high rate of the grid must
    not end the comparison.
    """
    from clickprompt.modality import ModelInput
    from clickprompt.training import stages
    from clickprompt.training.divergence import DivergedError

    stage = parameters.backbone.model_copy(
        update={"learning_rate_ctr": trial.learning_rate, "weight_decay": trial.weight_decay}
    )
    try:
        trained = stages.train_backbone(
            model_input=ModelInput.open(folder),
            ctr=sizes(trial.model, parameters),
            stage=stage,
            training=worker_training(parameters.training),
            seed=trial.seed,
        )
    except DivergedError as error:
        failed = {"metrics": None, "best_epoch": None, "seconds": 0.0, "diverged": str(error)}
        return {**vars(trial), **failed}
    return {
        **vars(trial),
        "metrics": trained.report["metrics"],
        "best_epoch": trained.report["best_epoch"],
        "parameters": sum(trained.report["parameter_counts"].values()),
        "precision": trained.report["precision"],
        "seconds": trained.report["seconds"],
    }


def sizes(model: str, parameters: Any) -> Any:
    """The CTR parameters of a row of the table: those of ``ctr_sizes``, changed for a variant."""
    name, changes = VARIANTS.get(model, (model, {}))
    return parameters.ctr_sizes[name].model_copy(update=changes)


def _collect(
    jobs: Mapping[Future[dict[str, Any]], Trial], processes: int, name: str
) -> list[dict[str, Any]]:
    """The trained entries in the order of the jobs; a line for each as it comes."""
    entries: dict[Trial, dict[str, Any]] = {}
    for future in as_completed(jobs):
        trial = jobs[future]
        entries[trial] = future.result()
        left = [other for other in jobs.values() if other not in entries]
        print(
            f"{name} {len(entries)} of {len(jobs)}: {_line(entries[trial])}, about "
            f"{clock(_seconds(left, entries) / processes)} left",
            file=sys.stderr,
            flush=True,
        )
    return [entries[trial] for trial in jobs.values()]


def _seconds(left: Iterable[Trial], entries: Mapping[Trial, Mapping[str, Any]]) -> float:
    """Training time of what is left: the mean of the same model, or of all where it is new."""
    spent: dict[str, list[float]] = {}
    for trial, entry in entries.items():
        spent.setdefault(trial.model, []).append(entry["seconds"])
    everything = [seconds for found in spent.values() for seconds in found]
    return sum(statistics.fmean(spent.get(trial.model, everything)) for trial in left)


def _finite(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that did not diverge; there must be one."""
    found = [entry for entry in entries if entry["metrics"] is not None]
    if not found:
        raise ValueError(
            f"training of {entries[-1]['model']} must not diverge for all that was tried, got: "
            f"{entries[-1]['diverged']}"
        )
    return found


def _line(entry: Mapping[str, Any]) -> str:
    found = "diverged"
    if entry["metrics"] is not None:
        found = f"valid AUC {entry['metrics']['valid_auc']:.4f}"
    return (
        f"{entry['model']} seed {entry['seed']}, rate {entry['learning_rate']:g}, decay "
        f"{entry['weight_decay']:g}: {found}, {clock(entry['seconds'])}"
    )


def _trial(entry: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "learning_rate", "weight_decay", "best_epoch", "seconds")
    metrics = entry["metrics"] or {}
    valid = {f"valid_{metric}": metrics.get(f"valid_{metric}") for metric in METRICS}
    return {name: entry[name] for name in names} | valid


def _result(entry: Mapping[str, Any]) -> dict[str, Any]:
    test = {metric: entry["metrics"][f"test_{metric}"] for metric in METRICS}
    valid = {f"valid_{metric}": entry["metrics"][f"valid_{metric}"] for metric in METRICS}
    names = ("best_epoch", "parameters", "seconds")
    start = {name: entry[name] for name in ("model", "seed")}
    return start | test | valid | {name: entry[name] for name in names}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and sample deviations of one model over its seeds."""
    line: dict[str, Any] = {"model": rows[0]["model"], "parameters": rows[0]["parameters"]}
    for metric in (*METRICS, *(f"valid_{metric}" for metric in METRICS)):
        values = [row[metric] for row in rows]
        line[metric] = statistics.fmean(values)
        line[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    line["seconds"] = round(statistics.fmean(row["seconds"] for row in rows), 1)
    return line


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command and ``benchmarks.anchors`` both take."""
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="at work at the same time")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL",
        help=f"of {', '.join(MODELS)}",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line and write ``benchmarks/results/backbones.json``."""
    from benchmarks.report_backbones import summary_table
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="base", help="of the embedded data: base, or its others")
    add_options(parser)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    parameters = base_parameters(given.env)
    if parameters.data.reader != "movielens_small":
        parser.error(f"--env must be one of the embedded data, got {given.env!r}")
    folder = REPOSITORY / "data" / "05_model_input" / f"backbones_{given.env}"
    model_input = convert_files(embedded_files(), folder, parameters)
    found = compare(
        parameters,
        model_input,
        models=given.models,
        grid=GRID,
        seeds=given.seeds,
        processes=given.processes,
    )
    result = {"environment": given.env, **found}
    result["seconds"] = round(time.monotonic() - started, 1)
    name = "backbones" if given.env == "base" else f"backbones_{given.env}"
    print(summary_table(result))
    print(f"written: {write_result(name, result)}")


if __name__ == "__main__":
    main()
