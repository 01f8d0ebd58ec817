"""The baselines, the ten backbones' best and ClickPrompt in one table: tuned with equal effort.

1. Every model is trained with each of its six settings (:data:`SETTINGS`) on seed 0; the one with
   the highest valid AUC is chosen. Of these trials nothing but valid is kept.
2. Every seed is trained with what was chosen; test serves the report only. Models that take more
   than three minutes have three seeds, the others five (``--seeds``).

Everything else is what ``conf`` says. Differences from the backbone are tested over the seeds that
both have (paired t, Holm's correction). Models are trained one at a time with all cores, so that
seconds and rows a second can be compared. Trained stages are kept in ``data/06_models`` and found
again, so an interrupted run continues.

    python -m benchmarks.baselines [--seeds 5] [--models ctrl ptab]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.project import REPOSITORY, base_parameters, convert_files, embedded_files
from benchmarks.seeds import METRICS, best_on_valid, compare_over_seeds
from clickprompt.progress import clock

REFERENCE = "backbone"
LONG = 180.0  # seconds of training from which on a model has three seeds
SEEDS_OF_LONG = 3

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


def train(model: str, changes: Changes, seed: int) -> dict[str, Any]:
    """Train one model with one setting, or find it.

    Returns:
        ``model``, ``seed``, ``changes``, ``metrics``, ``parameters`` (in serving), ``seconds`` (of
        all of its stages) and ``scored_rows_per_second``.
    """
    from clickprompt.modality import ModelInput
    from clickprompt.pipelines.baseline.nodes import train_baseline
    from clickprompt.training import baselines, stages
    from clickprompt.tuning.space import nested

    named = {"model.name": model} if model not in OWN else {}
    known = base_parameters(changes=nested({**changes, **named}))
    model_input = ModelInput.open(FOLDER)
    shared: dict[str, Any] = {"model_input": model_input, "training": known.training, "seed": seed}
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
            known.training,
            seed,
        )
        before = trained.report["parameters"].get("pretrained")
        stages_seconds = 0.0 if before is None else _seconds_of(before, known.training.folder)
    return {
        "model": model,
        "seed": seed,
        "changes": dict(changes),
        "metrics": trained.report["metrics"],
        "plm": trained.report["plm"],
        "parameters": sum(trained.report["parameter_counts"].values()),
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


def compare(models: Sequence[str], seeds: int) -> dict[str, Any]:
    """Tune the models with equal effort, then train all seeds and test once."""
    tuning: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, Any]] = {}
    results: list[dict[str, Any]] = []
    for model in models:
        tried = []
        for number, changes in enumerate(SETTINGS[model], start=1):
            entry = train(model, changes, seed=0)
            tried.append(entry)
            _tell(f"{model}, setting {number} of {len(SETTINGS[model])}", entry, "valid_auc")
        best = best_on_valid(tried)
        chosen[model] = best["changes"]
        tuning += [_trial(entry) for entry in tried]
        count = seeds if best["seconds"] < LONG else min(seeds, SEEDS_OF_LONG)
        for seed in range(count):
            entry = train(model, best["changes"], seed)
            results.append(_result(entry))
            _tell(f"{model}, seed {seed + 1} of {count}", entry, "test_auc")
    return {
        "settings": {model: len(SETTINGS[model]) for model in models},
        "tuning": tuning,
        "chosen": chosen,
        "results": results,
        "summary": [_mean([row for row in results if row["model"] == m]) for m in models],
        "tests": compare_over_seeds(results, REFERENCE) if REFERENCE in models else [],
    }


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
    names = ("model", "seed", "plm", "parameters", "seconds", "scored_rows_per_second")
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
    for name in ("seconds", "scored_rows_per_second"):
        known = [row[name] for row in rows if row[name] is not None]
        line[name] = round(statistics.median(known), 1) if known else None
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


def main() -> None:
    """Run from the command line and write ``benchmarks/results/baselines.json``."""
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    given = parser.parse_args()
    parameters = base_parameters()
    model_input = convert_files(embedded_files(), FOLDER, parameters)
    result = {
        "data_digest": model_input.digest,
        "rows": len(model_input.labels),
        "constant_log_loss": _constant_log_loss(model_input),
        **compare(given.models, given.seeds),
    }
    print(f"written: {write_result('baselines', result)}")


if __name__ == "__main__":
    main()
