"""Run the speed benchmarks one after the other: ``python -m benchmarks [name ...]``.

Each prints its result and writes it to ``benchmarks/results/<name>.json``. ``ctr_speed`` and
``ctr_raw`` install FuxiCTR, RecBole and DeepCTR-Torch into environments of their own where these
are missing; ``ctr_speed`` and ``ctr_cost`` keep what was measured on this machine before, their own
commands have ``--again``. Others take long and are started by themselves:
``python -m benchmarks.accuracy``, ``benchmarks.backbones``, ``benchmarks.anchors``,
``benchmarks.scale`` and ``benchmarks.peers``.
"""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.results import machine_line, write_result

SPEED = (
    "conversion",
    "plm_speed",
    "plm_cost",
    "adaptation",
    "startup",
    "large_vocabulary",
    "ctr_speed",
    "ctr_raw",
    "ctr_cost",
    "precision",
    "serving",
    "serving_agreement",
    "study_overhead",
)


def main() -> None:
    names = sys.argv[1:] or SPEED
    unknown = sorted(set(names) - set(SPEED))
    if unknown:
        sys.exit(f"a benchmark must be one of {', '.join(SPEED)}, got {unknown[0]!r}")
    print(machine_line())
    for name in names:
        print(f"{name} ...", flush=True)
        result = importlib.import_module(f"benchmarks.{name}").run()
        print(json.dumps(result, indent=1), flush=True)
        print(f"written: {write_result(name, result)}", flush=True)


if __name__ == "__main__":
    main()
