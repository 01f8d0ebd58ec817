"""ClickPrompt against its backbone on the embedded data: several seeds, tuned with equal effort.

1. Every seed is pretrained once (PA-MLM).
2. The weight decay of each of the three models (backbone, ClickPrompt without and with the PLM)
   is chosen from the same grid, by the valid AUC of the first seed.
3. Every seed is trained with the chosen decay; test serves the report only.

Everything else is what ``conf`` says. The differences are tested over seeds (paired t) and on
the predictions (DeLong for AUC, bootstrap for LogLoss), with Holm's correction. Trained stages
are kept in ``data/06_models`` and found again, so an interrupted run continues.

    python -m benchmarks.accuracy [--env movielens_small_time] [--seeds 5] [--processes 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.project import REPOSITORY, base_parameters, embedded_model_input
from benchmarks.seeds import best_on_valid, worker_training, workers

GRID = (3e-5, 1e-4, 3e-4)
MODELS = ("backbone", "clickprompt_without_plm", "clickprompt_with_plm")
Job = tuple[str, str, int, float | None]


def run(
    environment: str, seeds: int, processes: int, models: Sequence[str] = MODELS
) -> dict[str, Any]:
    """Pretrain, tune, train all seeds, evaluate."""
    started = time.monotonic()
    parameters = base_parameters(environment)
    model_input, _ = embedded_model_input(_folder(environment), parameters)
    with workers(processes) as pool:

        def work(jobs: Iterable[Job]) -> list[dict[str, Any]]:
            return list(pool.map(train, jobs))

        pretrained = work((environment, "pretrain", seed, None) for seed in range(seeds))
        tuning = work(
            (environment, model, 0, decay) for decay in GRID for model in reversed(models)
        )
        chosen = {
            model: best_on_valid(entry for entry in tuning if entry["model"] == model)[
                "weight_decay"
            ]
            for model in models
        }
        trained = work(
            (environment, model, seed, chosen[model])
            for seed in range(seeds)
            for model in reversed(models)
        )
    report = _evaluate(parameters, model_input, trained)
    return {
        "environment": environment,
        "seeds": seeds,
        "data_digest": model_input.digest,
        "grid": GRID,
        "chosen_weight_decay": chosen,
        "tuning": [{k: e[k] for k in ("model", "weight_decay", "metrics")} for e in tuning],
        "pretraining": [{k: e[k] for k in ("seed", "metrics", "seconds")} for e in pretrained],
        "results": report["results"],
        "summary": report["summary"],
        "comparisons": report["comparisons"],
        "seed_comparisons": report["seed_comparisons"],
        "long_tail": report["long_tail"],
        "seconds_of_stages": sum(entry["seconds"] for entry in pretrained + tuning + trained),
        "seconds": round(time.monotonic() - started, 1),
    }


def train(job: Job) -> dict[str, Any]:
    """One stage of one seed, in a process of its own."""
    environment, name, seed, decay = job
    from clickprompt.modality import ModelInput
    from clickprompt.training import stages

    parameters = base_parameters(environment)
    settings: dict[str, Any] = {
        "model_input": ModelInput.open(_folder(environment)),
        "ctr": parameters.ctr,
        "training": worker_training(parameters.training),
        "seed": seed,
    }
    text = {"plm": parameters.plm, "prompts": parameters.prompts}

    def decayed(stage: Any) -> Any:
        return stage.model_copy(update={"weight_decay": decay})

    def pretrained() -> Any:
        return stages.pretrain(**settings, **text, stage=parameters.pretrain)

    kinds: dict[str, Callable[[], Any]] = {
        "pretrain": pretrained,
        "backbone": lambda: stages.train_backbone(**settings, stage=decayed(parameters.backbone)),
        "clickprompt_without_plm": lambda: stages.finetune_without_plm(
            **settings, pretrained=pretrained(), stage=decayed(parameters.finetune.without_plm)
        ),
        "clickprompt_with_plm": lambda: stages.finetune_with_plm(
            **settings, **text, pretrained=pretrained(), stage=decayed(parameters.finetune.with_plm)
        ),
    }
    trained = kinds[name]()
    entry = {
        "model": name,
        "seed": seed,
        "weight_decay": decay,
        "metrics": trained.report["metrics"],
        "seconds": trained.report["seconds"],
        "predictions": str(trained.predictions_path),
    }
    shown = {key: round(value, 4) for key, value in entry["metrics"].items()}
    print(f"{name} seed {seed} weight decay {decay}: {shown}", file=sys.stderr, flush=True)
    return entry


def _evaluate(parameters: Any, model_input: Any, trained: list[dict[str, Any]]) -> dict[str, Any]:
    import pandas as pd

    from clickprompt.evaluation import evaluate_predictions, train_facts

    frames = []
    for entry in trained:
        frame = pd.read_parquet(entry["predictions"])
        plm = None if entry["model"] == "backbone" else parameters.plm.source
        frame = frame.assign(model=entry["model"], ctr=parameters.ctr.name, seed=entry["seed"])
        frames.append(frame.assign(plm=pd.Series(plm, frame.index, "str")))
    rows = model_input.rows("train")
    facts = train_facts(
        model_input.labels[rows],
        model_input.user_train_rows[rows],
        model_input.item_train_rows[rows],
        parameters.evaluation.tail_share,
    )
    predictions = pd.concat(frames, ignore_index=True)
    return evaluate_predictions(predictions, parameters.evaluation, facts)


def _folder(environment: str) -> Path:
    return REPOSITORY / "data" / "05_model_input" / f"accuracy_{environment}"


def main() -> None:
    """Run from the command line and write ``benchmarks/results/accuracy_<environment>.json``."""
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="base")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    arguments = parser.parse_args()
    models = [model for model in MODELS if model in {"backbone", *arguments.models}]
    result = run(arguments.env, arguments.seeds, arguments.processes, models)
    write_result(f"accuracy_{arguments.env}", result)
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
