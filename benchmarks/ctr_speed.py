"""Our CTR models against FuxiCTR, RecBole and DeepCTR-Torch: training and inference, rows a second.

All train the same generated rows (``benchmarks.ctr_data``: MovieLens-1M's size, 8 fields) with the
same sizes (``peers/ctr_sizes.py``) in batches of 1024: each library in its own environment and
process with its own loader and loop, ours by the training loop of the stages. They take turns of
some seconds on one machine, and the quickest turn counts, since the others measure what else the
machine did. Training is timed without validation, after a warm-up; inference is valid and test.

    python -m benchmarks.ctr_speed [--models deepfm ...] [--repeats 5] [--again]

The environments are made where they are missing, which takes minutes and some gigabytes. Models
that were measured on this machine are kept, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import ctr_data
from benchmarks.peers import ctr_sizes as sizes
from benchmarks.peers.environments import pip_options, python_of
from benchmarks.peers.turns import Worker
from benchmarks.project import REPOSITORY
from benchmarks.results import FOLDER, machine_line, write_result
from benchmarks.scale import WORK

OURS = "ours"
LIBRARIES = ("fuxictr", "recbole", "deepctr")
# who takes turns; RecBole alone of the libraries has a mixed precision of its own
SIDES = (
    (OURS, "float32"),
    (OURS, "bf16"),
    *((library, "float32") for library in LIBRARIES),
    ("recbole", "bf16"),
)
WARM_UP_STEPS = 20
TURN_SECONDS = 4.0
PHASES = ("train", "predict")


def run(
    models: Sequence[str] = sizes.MODELS,
    *,
    rows: int = ctr_data.ROWS,
    repeats: int = 5,
    again: bool = False,
    work: Path = WORK,
    environments: Path | None = None,
    options: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure the models that are missing in the result file; write it after each.

    Args:
        models: of ``ctr_sizes.MODELS``.
        rows: of the generated table.
        repeats: turns of each side.
        again: measure the models that were measured on this machine, too.
        work: folder of generated files, which are kept.
        environments: folder of the libraries' environments; None: in ``work``.
        options: of ``pip install`` for them; None: see :func:`pip_options`.

    Returns:
        ``rows``, ``split_rows``, ``batch``, ``versions`` by side, ``matmul_gflops`` by precision,
        ``cells`` (model and side: parameters, rows per second of training and inference, all turns)
        and ``ratios``.

    Raises:
        ValueError: a model is unknown.
        RuntimeError: a library cannot be installed or fails.
    """
    unknown = sorted(set(models) - set(sizes.MODELS))
    if unknown:
        raise ValueError(f"model must be one of {', '.join(sizes.MODELS)}, got {unknown[0]!r}")
    known = measured_before("ctr_speed", rows)
    wanted = [model for model in models if again or model not in known.get("models", ())]
    for model in set(models) - set(wanted):
        print(f"{model}: measured before on this machine; --again repeats it", file=sys.stderr)
    if not wanted:
        return known
    folder = work / f"ctr_{rows}"
    written = ctr_data.write_files(folder, rows)
    cells = {(cell["model"], cell["side"]): cell for cell in known.get("cells", ())}
    result: dict[str, Any] = known
    with workers(folder, environments or work / "environments", options) as sides:
        versions = {name: worker.ask("versions") for name, worker in sides.items()}
        rates = matmul_gflops()
        for model in wanted:
            for cell in take_turns(sides, model, repeats, written):
                cells[model, cell["side"]] = cell
            result = summary(cells.values()) | {
                **written,
                "batch": sizes.BATCH_SIZE,
                "repeats": repeats,
                "versions": versions,
                "matmul_gflops": rates,
            }
            write_result("ctr_speed", result)
    return result


def matmul_gflops() -> dict[str, float]:
    """Best rate of a square matrix product here by precision: the limit of all sides."""
    import torch

    from benchmarks.plm_steps import matmul_rate

    kinds = {"float32": torch.float32, "bf16": torch.bfloat16}
    return {name: round(matmul_rate(kind) / 1e9, 1) for name, kind in kinds.items()}


@contextmanager
def workers(
    folder: Path, environments: Path, options: Sequence[str] | None
) -> Iterator[dict[str, Worker]]:
    """A started process for each library and for ours, stopped at the end."""
    commands = commands_of(environments, options)
    started: dict[str, Worker] = {}
    try:
        for name, (command, environment) in commands.items():
            started[name] = Worker(
                [*command, str(folder.resolve())],
                folder=folder,
                environment=environment,
                log=folder / f"{name}.log",
            )
        yield started
    finally:
        for worker in started.values():
            worker.stop()


def commands_of(
    environments: Path, options: Sequence[str] | None
) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Command and variables of each side's process; environments are made where missing."""
    if options is None:
        options = pip_options()
    commands = {}
    for library in LIBRARIES:
        python = python_of(library, environments.resolve(), options)
        # the repository, not src: they import the benchmarks, and nothing of the project
        command = [str(python), "-m", f"benchmarks.peers.train_{library}"]
        commands[library] = command, {"PYTHONPATH": str(REPOSITORY)}
    ours = [sys.executable, "-m", "benchmarks.ctr_ours"]
    path = {"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    return {OURS: (ours, path), **commands}


def take_turns(
    sides: Mapping[str, Any], model: str, repeats: int, written: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Train and predict by each side in turn; a cell for each.

    A turn trains for about ``TURN_SECONDS``, judged by the warm-up, an epoch at most.
    """
    train_rows = written["split_rows"][0]
    cells, rows = {}, {}
    for name, precision in SIDES:
        ask = {"model": model, "precision": precision}
        parameters = sides[name].ask("parameters", **ask)
        warm_up = min(WARM_UP_STEPS * sizes.BATCH_SIZE, train_rows)
        for _ in range(2):  # the first has the kernels planned, the second tells the rate
            turn = sides[name].ask("train", rows=warm_up, **ask)
        sides[name].ask("predict", **ask)
        rows[name, precision] = rows_of_turn(warm_up, turn["seconds"], train_rows)
        cells[name, precision] = {
            "model": model,
            "side": f"{name} {precision}",
            "parameters": parameters,
            **{f"{phase}_seconds": [] for phase in PHASES},
        }
    for repeat in range(repeats):
        for (name, precision), cell in cells.items():
            ask = {"model": model, "precision": precision}
            turns = {
                "train": sides[name].ask("train", rows=rows[name, precision], **ask),
                "predict": sides[name].ask("predict", **ask),
            }
            for phase, turn in turns.items():
                cell[f"{phase}_rows"] = turn["rows"]
                cell[f"{phase}_seconds"].append(round(turn["seconds"], 4))
            shown = ", ".join(f"{p} {t['rows'] / t['seconds']:,.0f}" for p, t in turns.items())
            print(f"{model}, {cell['side']}, {repeat + 1}: {shown} rows/s", file=sys.stderr)
    for cell in cells.values():
        cell["date"] = datetime.now(UTC).date().isoformat()
        for phase in PHASES:
            least = min(cell[f"{phase}_seconds"])
            cell[f"{phase}_rows_per_second"] = round(cell[f"{phase}_rows"] / least)
    return list(cells.values())


def rows_of_turn(warm_up_rows: int, seconds: float, train_rows: int) -> int:
    """Rows of whole batches for ``TURN_SECONDS`` at the rate of the warm-up; an epoch at most."""
    steps = round(TURN_SECONDS * warm_up_rows / seconds / sizes.BATCH_SIZE)
    return min(max(steps, WARM_UP_STEPS) * sizes.BATCH_SIZE, train_rows)


def summary(cells: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Cells in the order of models and sides, and how many times as quick as the libraries ours is.

    ``ratios`` names model, phase, our precision, the fastest setting of the libraries in
    ``against`` (float32, or any precision) and the ratio of the rows per second.
    """
    names = [f"{name} {precision}" for name, precision in SIDES]
    order = sorted(cells, key=lambda c: (sizes.MODELS.index(c["model"]), names.index(c["side"])))
    ratios = []
    for model in dict.fromkeys(cell["model"] for cell in order):
        of_model = {cell["side"]: cell for cell in order if cell["model"] == model}
        others = [side for side in of_model if not side.startswith(OURS)]
        for phase in PHASES:
            rate = {side: cell[f"{phase}_rows_per_second"] for side, cell in of_model.items()}
            groups = {"float32": [side for side in others if side.endswith("float32")]}
            groups["any precision"] = others
            for precision in ("float32", "bf16"):
                for against, group in groups.items():
                    rival = max(group, key=rate.__getitem__)
                    ratios.append(
                        {
                            "model": model,
                            "phase": phase,
                            "ours": precision,
                            "against": against,
                            "fastest": rival,
                            "ratio": round(rate[f"{OURS} {precision}"] / rate[rival], 3),
                        }
                    )
    return {
        "models": list(dict.fromkeys(cell["model"] for cell in order)),
        "cells": order,
        "ratios": ratios,
    }


def measured_before(name: str, rows: int) -> dict[str, Any]:
    """A result file, if it is of this machine and this number of rows; else nothing."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return {}
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = known["machine"] == machine_line() and known["rows"] == rows
    return known if same else {}


def options_of(parser: argparse.ArgumentParser) -> None:
    """Options that the benchmarks of CTR models share."""
    parser.add_argument("--rows", type=int, default=ctr_data.ROWS, help="of the generated table")
    parser.add_argument("--again", action="store_true", help="measure finished cells, too")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of generated files")


def peer_options_of(parser: argparse.ArgumentParser) -> None:
    """Options of those that measure other libraries."""
    parser.add_argument("--environments", type=Path, help="folder of the others' environments")
    parser.add_argument(
        "--torch-wheels",
        help="folder of wheels or index page with a CPU build of torch; else pip decides",
    )


def main() -> None:
    """Measure from the command line and write ``benchmarks/results/ctr_speed.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sizes.MODELS, default=list(sizes.MODELS))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    options_of(parser)
    peer_options_of(parser)
    arguments = parser.parse_args()
    result = run(
        arguments.models,
        rows=arguments.rows,
        repeats=arguments.repeats,
        again=arguments.again,
        work=arguments.work,
        environments=arguments.environments,
        options=pip_options(arguments.torch_wheels),
    )
    print(json.dumps(result["ratios"], indent=1))


if __name__ == "__main__":
    main()
