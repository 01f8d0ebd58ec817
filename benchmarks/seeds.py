"""What comparisons over seeds share: processes, stages at a fixed number of threads, choice, tests.

Choices look at valid only; differences are tested over seeds, with Holm's correction.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from benchmarks.project import REPOSITORY
from clickprompt.evaluation.significance import holm, seed_test

METRICS = ("auc", "log_loss")


def workers(processes: int) -> ProcessPoolExecutor:
    """Quiet processes that share the cores."""
    return ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=_start, initargs=(processes,)
    )


def worker_training(training: Any) -> Any:
    """The ``training`` parameters for one of the :func:`workers`: its threads, absolute folder."""
    import torch

    folder = str(REPOSITORY / training.folder)
    return training.model_copy(update={"threads": torch.get_num_threads(), "folder": folder})


def best_on_valid(entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The trial with the highest ``valid_auc`` of its ``metrics``; the first of equal ones."""
    return max(entries, key=lambda entry: entry["metrics"]["valid_auc"])


def compare_over_seeds(
    results: Sequence[Mapping[str, Any]], reference: str
) -> list[dict[str, int | float | str | None]]:
    """Paired tests of every model against ``reference``, over the seeds that both have.

    Args:
        results: ``model``, ``seed``, ``auc`` and ``log_loss`` of each run.
        reference: the model that the others are compared with.

    Returns:
        ``model``, ``metric``, ``seeds``, ``difference`` (mean, model minus reference),
        ``t_p_value`` and ``p_value_holm`` (over all tests of this call); the two are null with
        fewer than two seeds.

    Raises:
        ValueError: the reference is not among the results.
    """
    by_model: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in results:
        by_model.setdefault(row["model"], {})[row["seed"]] = row
    if reference not in by_model:
        raise ValueError(f"reference must be one of {', '.join(by_model)}, got {reference!r}")
    tests: list[dict[str, Any]] = []
    for model, rows in by_model.items():
        seeds = sorted(rows.keys() & by_model[reference].keys())
        if model == reference or not seeds:
            continue
        for metric in METRICS:
            test = seed_test(
                *([found[seed][metric] for seed in seeds] for found in (rows, by_model[reference]))
            )
            entry = {"model": model, "metric": metric, "seeds": test.seeds}
            tests.append(entry | {"difference": test.difference, "t_p_value": test.t_p_value})
    return with_holm(tests)


def with_holm(tests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tests with ``p_value_holm``, corrected for all that have a ``t_p_value``."""
    known = [test["t_p_value"] for test in tests if test["t_p_value"] is not None]
    corrected = iter(holm(known))
    return [
        {**test, "p_value_holm": None if test["t_p_value"] is None else next(corrected)}
        for test in tests
    ]


def _start(processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    os.environ["TQDM_DISABLE"] = "1"
    logging.basicConfig(level=logging.WARNING)
