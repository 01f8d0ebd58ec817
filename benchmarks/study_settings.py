"""ClickPrompt's settings for the other CTR models of the studies, by the same effort as for DCNv2.

`benchmarks.baselines` has chosen ClickPrompt's settings with DCNv2. This tries the same six of each
way of finetuning with AutoInt and DNN on seed 0, and chooses by valid AUC; test is not looked at.
What is chosen goes into ``studies.settings`` of ``conf``. Trained stages are found again.

    python -m benchmarks.study_settings [--models MODEL ...] [--processes 1] [--device auto]

``--models`` says what is tried now; trials of the other models stay in the result.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from typing import Any

from benchmarks.baselines import FOLDER, SETTINGS, train
from benchmarks.project import base_parameters, convert_files, embedded_files
from benchmarks.results import FOLDER as RESULTS
from benchmarks.results import write_result
from benchmarks.seeds import best_on_valid, workers

CTR_MODELS = ("autoint", "dnn")
MODELS = ("clickprompt_without_plm", "clickprompt_with_plm")


def choose(
    models: Sequence[str] = MODELS, processes: int = 1, device: str = "auto"
) -> list[dict[str, Any]]:
    """Try all settings of each.

    Args:
        models: ways of finetuning.
        processes: at work at the same time.
        device: that is trained on.

    Returns:
        Trials: CTR model, model, changes, valid metrics.
    """
    machine = {"training.device": device, "training.test": False}
    jobs = [
        (ctr, model, {"ctr.name": ctr, **setting})
        for model in models
        for setting in SETTINGS[model]
        for ctr in CTR_MODELS
    ]
    # The first of each CTR model makes the pretraining that the others start from.
    waves = [jobs[: len(CTR_MODELS)], jobs[len(CTR_MODELS) :]]
    trials = []
    with workers(processes) as pool:
        for wave in waves:
            futures = {pool.submit(train, job[1], job[2], 0, machine): job for job in wave}
            for future in as_completed(futures):
                ctr, model, changes = futures[future]
                metrics = future.result()["metrics"]
                trial = {"ctr": ctr, "model": model, "changes": changes, "metrics": metrics}
                trials.append(trial)
                done = f"{len(trials)} of {len(jobs)}, {model}, {changes}"
                told = f"{time.strftime('%H:%M')} {done}: valid AUC {metrics['valid_auc']:.4f}"
                print(told, file=sys.stderr, flush=True)
    trials.sort(key=lambda trial: jobs.index((trial["ctr"], trial["model"], trial["changes"])))
    return trials


def best_settings(trials: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is chosen of all trials: model -> CTR model -> changes."""
    chosen: dict[str, dict[str, Any]] = {}
    for model, ctr in sorted({(trial["model"], trial["ctr"]) for trial in trials}):
        own = [trial for trial in trials if (trial["ctr"], trial["model"]) == (ctr, model)]
        best = best_on_valid(own)["changes"]
        chosen.setdefault(model, {})[ctr] = {key: best[key] for key in best if key != "ctr.name"}
    return chosen


def main() -> None:
    """Run from the command line and write ``benchmarks/results/study_settings.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--processes", type=int, default=1, help="at work at the same time")
    parser.add_argument("--device", default="auto", help="that is trained on")
    given = parser.parse_args()
    convert_files(embedded_files(), FOLDER, base_parameters())
    trials = choose(given.models, given.processes, given.device)
    earlier = RESULTS / "study_settings.json"
    if earlier.exists():
        known = json.loads(earlier.read_text(encoding="utf-8"))["trials"]
        trials += [trial for trial in known if trial["model"] not in given.models]
    result = {"trials": trials, "chosen": best_settings(trials)}
    print(f"written: {write_result('study_settings', result)}")


if __name__ == "__main__":
    main()
