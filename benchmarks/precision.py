"""Does bf16 change what the CTR models reach? Test AUC in float32 and bf16, five seeds each.

The embedded data and ``backbone`` of ``conf/base``, with the sizes that it names for each model.
The two precisions of a seed share initial weights and batch order, so their difference is paired;
the interval is Student's over the seeds. A mean difference within 0.0005 counts as none.

    python -m benchmarks.precision [--models deepfm ...] [--seeds 5]

Each stage's result is kept by its digest in the work folder, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import ctr_sizes as sizes
from benchmarks.project import base_parameters, embedded_model_input
from benchmarks.results import write_result
from benchmarks.scale import WORK

PRECISIONS = ("float32", "bf16")
SEEDS = 5
TOLERANCE = 0.0005


def run(
    models: Sequence[str] = sizes.MODELS, *, seeds: int = SEEDS, work: Path = WORK
) -> dict[str, Any]:
    """Train every model, seed and precision.

    Args:
        models: CTR models.
        seeds: 0, 1, ...; at least 2, since one has no deviation.
        work: folder of the model input and the trained models, which are kept.

    Returns:
        ``seeds``, ``tolerance``, ``results`` (model, seed, precision, ``test_auc``) and ``models``:
        means, the mean difference bf16 - float32 and its 95 % interval.

    Raises:
        ValueError: fewer than two seeds.
    """
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, got {seeds}")
    from clickprompt.modality import ModelInput
    from clickprompt.training.stages import train_backbone

    target = work / "precision_input"
    if (target / "metadata.json").exists():
        model_input = ModelInput.open(target)
    else:
        model_input, _ = embedded_model_input(target, base_parameters())
    results = []
    for model in models:
        parameters = base_parameters(changes={"ctr": {"name": model}})
        for seed in range(seeds):
            for precision in PRECISIONS:
                training = parameters.training.model_copy(
                    update={
                        "precision": precision,
                        "device": "cpu",
                        "folder": str(work / "precision_models"),
                    }
                )
                trained = train_backbone(
                    model_input=model_input,
                    ctr=parameters.ctr,
                    stage=parameters.backbone,
                    training=training,
                    seed=seed,
                )
                entry = {"model": model, "seed": seed, "precision": precision}
                entry["test_auc"] = trained.report["metrics"]["test_auc"]
                print(json.dumps(entry), file=sys.stderr, flush=True)
                results.append(entry)
    return {"seeds": seeds, "tolerance": TOLERANCE, "models": compare(results), "results": results}


def compare(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means by precision and the paired difference over the seeds, for each model."""
    from scipy.stats import t

    found: dict[str, dict[str, list[float]]] = {}
    for entry in results:  # in the order of the seeds
        by_precision = found.setdefault(entry["model"], {name: [] for name in PRECISIONS})
        by_precision[entry["precision"]].append(entry["test_auc"])
    compared = []
    for model, auc in found.items():
        difference = np.subtract(auc["bf16"], auc["float32"])
        mean, count = float(difference.mean()), len(difference)
        half = float(t.ppf(0.975, count - 1) * difference.std(ddof=1) / count**0.5)
        compared.append(
            {
                "model": model,
                **{f"auc_{name}": round(float(np.mean(auc[name])), 6) for name in PRECISIONS},
                "difference": round(mean, 6),
                "interval": [round(mean - half, 6), round(mean + half, 6)],
                "within_tolerance": abs(mean) <= TOLERANCE,
            }
        )
    return compared


def main() -> None:
    """Measure from the command line and write ``benchmarks/results/precision.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sizes.MODELS, default=list(sizes.MODELS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of what is trained")
    arguments = parser.parse_args()
    result = run(arguments.models, seeds=arguments.seeds, work=arguments.work)
    print(json.dumps(result["models"], indent=1))
    print(f"written: {write_result('precision', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
