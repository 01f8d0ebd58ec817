"""Our conversion against RecBole's and FuxiCTR's own preprocessing of the same rows.

All read the same generated table (``benchmarks.scale_data``), each from the format it likes best,
in a process of its own, taking turns. The quickest run counts, since on a machine with other work
the slower ones measure that work; imports are not timed. The others are installed into
environments of their own, and their output is checked against the table.

    python -m benchmarks.peers [--rows 1000000] [--engines pandas polars] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import scale
from benchmarks.measured import run_measured
from benchmarks.peers import check, inputs
from benchmarks.peers.environments import pip_options, python_of
from benchmarks.results import write_result

HERE = Path(__file__).parent
NAME = "goodreads"
# entry -> library, and how it is run
PEERS = {
    "recbole_item_file": "recbole",
    "recbole_one_table": "recbole",
    "fuxictr_without_ray": "fuxictr",
    "fuxictr_blocks": "fuxictr",
    "fuxictr_one_file": "fuxictr",
}
# RecBole numbers the values of all rows, FuxiCTR those of train
VOCABULARY_OF = {"recbole": "all", "fuxictr": "train"}


def run(
    rows: int = 1_000_000,
    engines: Sequence[str] = ("pandas", "polars"),
    *,
    peers: Sequence[str] = tuple(PEERS),
    repeats: int = 3,
    work: Path = scale.WORK,
    environments: Path | None = None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure all in turns.

    Returns:
        ``rows``, ``fields``, ``repeats`` and ``entries``: for each engine and each way of a library
        the ``seconds`` (least and all), ``rows_per_second``, ``peak_memory_mb``, ``versions``.

    Raises:
        ValueError: an engine is unknown or not installed.
        RuntimeError: a library cannot be installed, fails, or its output is wrong.
    """
    for engine in engines:
        scale.require_engine(engine)
    environments = environments or work / "environments"
    pythons = {
        library: python_of(library, environments, options)
        for library in dict.fromkeys(PEERS[peer] for peer in peers)
    }
    path = scale.interactions_file(rows, work)
    table = inputs.read(path)
    commands = {peer: _prepare(peer, table, work / "peers", pythons) for peer in peers}
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        f"ours_{engine}": partial(scale.measure, engine, rows, work) for engine in engines
    }
    runs |= {peer: partial(_measure, peer, commands[peer], table, work) for peer in peers}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, measure in runs.items():
            found[name].append(measure())
            entry = found[name][-1]
            shown = f"{entry['seconds']:.2f} s, {entry['peak_memory_mb']} MiB"
            print(f"{name}: {shown}", file=sys.stderr, flush=True)
    return {
        "rows": rows,
        "fields": len(inputs.FIELDS),
        "repeats": repeats,
        "entries": [_summary(name, entries, rows) for name, entries in found.items()],
    }


def _prepare(peer: str, table: Any, folder: Path, pythons: dict[str, Path]) -> list[str]:
    """Write the files that a library reads; the command that reads them."""
    source = folder / ("fuxictr" if PEERS[peer] == "fuxictr" else peer)
    python = str(pythons[PEERS[peer]])
    if PEERS[peer] == "recbole":
        inputs.write_recbole(table, source, NAME, item_file=peer.endswith("item_file"))
        return [python, str(HERE / "run_recbole.py"), str(source), NAME]
    inputs.write_fuxictr(table, source)
    way = peer.removeprefix("fuxictr_")
    return [python, str(HERE / "run_fuxictr.py"), str(source), way, str(folder / "fuxictr_output")]


def _measure(peer: str, command: list[str], table: Any, work: Path) -> dict[str, Any]:
    shutil.rmtree(work / "peers" / "fuxictr_output", ignore_errors=True)
    # their own environments: nothing of this project is on their path
    measured = run_measured(command, folder=work, environment={"PYTHONPATH": ""})
    library = PEERS[peer]
    wrong = check.problems(
        table, measured.result.pop("facts"), vocabulary_of=VOCABULARY_OF[library]
    )
    if wrong:
        raise RuntimeError(f"the output of {peer} is wrong:\n" + "\n".join(wrong[:5]))
    own_peak = measured.result.pop("own_peak_mb")
    return {**measured.result, "peak_memory_mb": max(own_peak, measured.peak_memory_mb)}


def _summary(name: str, entries: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    seconds = min(entry["seconds"] for entry in entries)
    return {
        "name": name,
        "seconds": round(seconds, 3),
        "all_seconds": [entry["seconds"] for entry in entries],
        "rows_per_second": round(rows / seconds),
        "peak_memory_mb": max(entry["peak_memory_mb"] for entry in entries),
        "versions": entries[0].get("versions", {}),
    }


def main() -> None:
    """Measure from the command line and write ``benchmarks/results/peers.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engines", nargs="+", choices=scale.ENGINES, default=["pandas", "polars"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=scale.WORK, help="folder of generated files")
    parser.add_argument("--environments", type=Path, help="folder of the others' environments")
    parser.add_argument(
        "--torch-wheels",
        help="folder of wheels or index page with a CPU build of torch; else pip decides",
    )
    arguments = parser.parse_args()
    result = run(
        arguments.rows,
        arguments.engines,
        peers=arguments.peers,
        repeats=arguments.repeats,
        work=arguments.work,
        environments=arguments.environments,
        options=pip_options(arguments.torch_wheels),
    )
    print(json.dumps(result, indent=1))
    print(f"written: {write_result('peers', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
