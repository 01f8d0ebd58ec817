"""From raw CSV to a trained CTR model: ours against FuxiCTR, RecBole and DeepCTR-Torch.

Each reads the same generated rows from the text files that it asks for, numbers the values, trains
DeepFM for one epoch in batches of 1024 and validates once, in a process of its own, taking turns.
Seconds are given without imports and as wall time of the whole process; the quickest run counts.
Ours makes the text view and its tokens too, which no other does. The AUC on valid shows that all
have learnt the same.

    python -m benchmarks.ctr_raw [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ctr_data, ctr_speed
from benchmarks.measured import run_measured
from benchmarks.peers.environments import pip_options
from benchmarks.results import write_result
from benchmarks.scale import WORK

MODEL = "deepfm"
# RecBole's mixed precision has no part in this: its autocast is tried by ctr_speed
SIDES = tuple(side for side in ctr_speed.SIDES if side != ("recbole", "bf16"))
SECONDS = ("seconds", "wall_seconds")


def run(
    *,
    rows: int = ctr_data.ROWS,
    repeats: int = 3,
    work: Path = WORK,
    environments: Path | None = None,
    options: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run all sides in turns; the arguments are those of :func:`benchmarks.ctr_speed.run`.

    Returns:
        ``rows``, ``model``, ``repeats``, ``entries`` (side: least and all ``seconds`` without
        imports and ``wall_seconds``, ``valid_auc``) and ``ratios``.

    Raises:
        RuntimeError: a library cannot be installed or fails.
    """
    folder = work / f"ctr_{rows}"
    written = ctr_data.write_files(folder, rows)
    commands = ctr_speed.commands_of(environments or work / "environments", options)
    found: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(repeats):
        for name, precision in SIDES:
            command, environment = commands[name]
            command = [*command, str(folder.resolve()), MODEL]
            if name == ctr_speed.OURS:
                command.append(precision)
            started = time.perf_counter()
            measured = run_measured(command, folder=folder, environment=environment)
            entry = {**measured.result, "wall_seconds": time.perf_counter() - started}
            found.setdefault(f"{name} {precision}", []).append(entry)
            shown = ", ".join(f"{key} {entry[key]:.2f}" for key in (*SECONDS, "valid_auc"))
            print(f"{name} {precision}, {repeat + 1}: {shown}", file=sys.stderr, flush=True)
    return {**written, "model": MODEL, "repeats": repeats, **summary(found)}


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Least seconds of each side, and how many times as quick as the libraries' best ours is."""
    entries = []
    for side, runs in found.items():
        entry: dict[str, Any] = {"side": side, "valid_auc": round(runs[0]["valid_auc"], 5)}
        for key in SECONDS:
            entry[key] = round(min(run[key] for run in runs), 3)
            entry[f"all_{key}"] = [round(run[key], 3) for run in runs]
        entries.append(entry)
    ratios = []
    for key in SECONDS:
        seconds = {entry["side"]: entry[key] for entry in entries}
        others = [side for side in seconds if not side.startswith(ctr_speed.OURS)]
        rival = min(others, key=seconds.__getitem__)
        for side in seconds:
            if side.startswith(ctr_speed.OURS):
                ratio = round(seconds[rival] / seconds[side], 3)
                ratios.append({"of": key, "ours": side, "fastest": rival, "ratio": ratio})
    return {"entries": entries, "ratios": ratios}


def main() -> None:
    """Measure from the command line and write ``benchmarks/results/ctr_raw.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ctr_data.ROWS, help="of the generated table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of generated files")
    ctr_speed.peer_options_of(parser)
    arguments = parser.parse_args()
    result = run(
        rows=arguments.rows,
        repeats=arguments.repeats,
        work=arguments.work,
        environments=arguments.environments,
        options=pip_options(arguments.torch_wheels),
    )
    print(json.dumps(result, indent=1))
    print(f"written: {write_result('ctr_raw', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
