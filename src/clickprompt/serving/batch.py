"""A file of raw rows -> the same rows with ``probability`` and ``reason``, in chunks.

Every chunk is a Parquet file beside the output until all are done, so a killed run goes on after
the last whole chunk, and memory holds one chunk. The parts are then put together in order.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich.table import Table

from clickprompt.files import sync, value_digest
from clickprompt.parameters import DataParameters, ScoreParameters, TableParameters
from clickprompt.progress import RateProgress, clock
from clickprompt.serving.bundle import bundle_digest
from clickprompt.serving.scorer import Health, Scorer

logger = logging.getLogger(__name__)

PROBABILITY, REASON = "probability", "reason"
BLOCK = 1 << 22  # bytes of a CSV file that are read at a time
CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".txt")


def score_file(score: ScoreParameters, bundles: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Score a file as the parameters say.

    Args:
        score: input, output, model and how.
        bundles: name -> folder, for ``score.model``.

    Returns:
        The report, also written as ``<output>.report.json``: input, output, model, seconds, rows,
        rows that could not be scored, and by column the shares of out-of-vocabulary and missing
        cells beside those of the model's own data.

    Raises:
        ValueError: there is no input, it is neither CSV nor Parquet, it lacks every column of the
            fields or has columns named as the answers, or the model is no bundle.
        OSError: the output cannot be written; what was scored before remains.
    """
    started = time.monotonic()
    source, target = _files(score)
    known = bundles or {}
    folder = known.get(score.model, Path(score.model))
    if not folder.is_dir():
        raise ValueError(
            f"score.model must be {', '.join(known) or 'the path of a bundle'} that kedro run has "
            f"made, or the path of a bundle, got {score.model!r} and no folder {folder}"
        )
    scorer = Scorer(
        folder, precision=score.precision, device=score.device, batch_rows=score.batch_rows
    )
    schema, total = _layout(source, scorer.bundle.data)
    for name in (PROBABILITY, REASON):
        if name in schema.names:
            raise ValueError(
                f"{source} must have no column {name!r}, which the answers are written to, got one"
            )
    columns = set(scorer.columns)
    if columns.isdisjoint(schema.names):
        raise ValueError(
            f"{source} must have at least one of the columns {', '.join(scorer.columns)}, got "
            f"{', '.join(schema.names[:20])}"
        )
    lacking = [name for name in scorer.columns if name not in schema.names]
    if lacking:
        logger.warning("%s lacks %s: taken as missing values", source, ", ".join(lacking))
    parts = target.with_name(f".{target.name}.parts")
    health, done = _resume(parts, _identity(score, source, folder), scorer)
    if done:
        logger.info("score: goes on after %s rows", f"{health.rows:,}")
    with RateProgress("score", total=total, done=health.rows) as bar:
        for number, table in enumerate(_chunks(source, scorer.bundle.data, score.chunk_rows)):
            if number < done:
                continue
            answer = scorer.score(_read_columns(table, scorer))
            health.add(answer.health)
            scored = table.append_column(
                PROBABILITY, pa.array(answer.probability, pa.float64(), from_pandas=True)
            ).append_column(REASON, pa.array(answer.reasons, pa.string()))
            _write_part(parts, number, scored, health)
            bar.advance(len(table))
    _join(parts, target)
    report: dict[str, Any] = {
        "input": str(source),
        "output": str(target),
        "model": str(folder),
        "bundle": bundle_digest(folder),
        "seconds": round(time.monotonic() - started, 3),
        "lacking_columns": lacking,
        **health.report(scorer.bundle.settings["out_of_vocabulary"]),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    target.with_name(f"{target.name}.report.json").write_text(text, encoding="utf-8")
    shutil.rmtree(parts, ignore_errors=True)
    logger.info(
        "score: %s rows in %s: %s", f"{health.rows:,}", clock(time.monotonic() - started), target
    )
    return report


def health_table(report: dict[str, Any]) -> Table:
    """The report for a terminal."""
    title = f"{report['rows']:,} rows scored to {report['output']}"
    if report["not_scored"]:
        title += f", {report['not_scored']:,} could not be scored (see the column {REASON})"
    table = Table("Column", "Unseen", "in train", "in test", "Missing", title=title)
    names = ("out_of_vocabulary", "out_of_vocabulary_in_train", "out_of_vocabulary_in_test")
    for column, shares in report["fields"].items():
        table.add_row(column, *(f"{shares[name]:.1%}" for name in (*names, "missing")))
    return table


def _files(score: ScoreParameters) -> tuple[Path, Path]:
    """The input, and where the output goes."""
    if score.input is None:
        raise ValueError("score.input must be a CSV or Parquet file, got null")
    source = Path(score.input)
    if not source.is_file():
        raise ValueError(f"score.input must be a file that is there, got {score.input!r}")
    kind = next((end for end in (*CSV_ENDINGS, ".parquet") if source.name.endswith(end)), None)
    if kind is None:
        raise ValueError(
            f"score.input must end in {', '.join(CSV_ENDINGS)} or .parquet, got {source.name!r}"
        )
    if score.output is None:
        ending = ".parquet" if kind == ".parquet" else ".csv"
        return source, source.with_name(f"{source.name.removesuffix(kind)}.scored{ending}")
    target = Path(score.output)
    if target.suffix not in (".csv", ".parquet"):
        raise ValueError(f"score.output must end in .csv or .parquet, got {score.output!r}")
    if target.resolve() == source.resolve():
        raise ValueError(
            f"score.output must be another file than score.input, got {score.output!r}"
        )
    return source, target


def _layout(source: Path, data: DataParameters) -> tuple[pa.Schema, int | None]:
    """Columns of the file, and how many rows it has where that is known."""
    if source.suffix == ".parquet":
        try:
            with pq.ParquetFile(source) as file:
                return file.schema_arrow, file.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise ValueError(f"score.input must be readable, got {source}: {error}") from None
    try:
        with _csv_reader(source, data) as reader:
            return reader.schema, None
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"score.input must be readable, got {source}: {error}") from None


def _csv_reader(source: Path, data: DataParameters) -> pa_csv.CSVStreamingReader:
    """All columns as text, exactly as they stand: "007" is no number, and so is an empty cell."""
    table = data.table or TableParameters()
    delimiter = "\t" if source.name.endswith(".tsv") else table.delimiter
    names = list(table.columns) if table.columns else _header(source, table, delimiter)
    return pa_csv.open_csv(
        source,
        read_options=pa_csv.ReadOptions(
            block_size=BLOCK,
            encoding=table.encoding,
            column_names=names,
            skip_rows=0 if table.columns else 1,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=delimiter,
            quote_char=table.quote if table.quote else False,
            newlines_in_values=table.quote is not None,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )


def _header(source: Path, table: TableParameters, delimiter: str) -> list[str]:
    """Names in the first line."""
    with pa.input_stream(source, compression="detect") as stream:
        line = stream.read(1 << 20).decode(table.encoding, "replace").lstrip("\ufeff")
    quote = table.quote or '"'
    lines = csv.reader(line.splitlines()[:1], delimiter=delimiter, quotechar=quote)
    names = next(lines, [])
    if not names or len(set(names)) < len(names):
        raise ValueError(f"score.input must have different names in its first line, got {names}")
    return names


def _chunks(source: Path, data: DataParameters, rows: int) -> Iterator[pa.Table]:
    """Tables of so many rows, the last one of fewer; the same for the same file."""
    with ExitStack() as stack:
        if source.suffix == ".parquet":
            file = stack.enter_context(pq.ParquetFile(source))
            batches = file.iter_batches(batch_size=rows)
            schema = file.schema_arrow
        else:
            batches = stack.enter_context(_csv_reader(source, data))
            schema = batches.schema
        kept: list[pa.RecordBatch] = []
        count = 0
        for batch in batches:
            kept.append(batch)
            count += batch.num_rows
            while count >= rows:
                table = pa.Table.from_batches(kept, schema)
                yield table.slice(0, rows)
                kept = table.slice(rows).to_batches()
                count -= rows
        if count:
            yield pa.Table.from_batches(kept, schema)


def _read_columns(table: pa.Table, scorer: Scorer) -> pd.DataFrame:
    """The columns that are read, in types that keep whole numbers whole beside missing cells."""
    time_column = scorer.bundle.data.time
    names = [name for name in table.column_names if name in {*scorer.columns, time_column}]
    return table.select(names).to_pandas(types_mapper=pd.ArrowDtype)


def _identity(score: ScoreParameters, source: Path, folder: Path) -> str:
    """What parts must have in common to be of one output."""
    state = source.stat()
    settings = score.model_dump(mode="json", include={"chunk_rows", "precision", "device"})
    file = [str(source.resolve()), state.st_size, state.st_mtime_ns]
    return value_digest([file, bundle_digest(folder), settings])


def _resume(parts: Path, identity: str, scorer: Scorer) -> tuple[Health, int]:
    """Health so far and the number of whole parts; parts of something else are taken away."""
    empty = Health(scorer.columns)
    mark = parts / "identity"
    if not mark.is_file() or mark.read_text() != identity:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        mark.write_text(identity)
        return empty, 0
    done = 0
    while _part(parts, done).is_file():
        done += 1
    if not done:
        return empty, 0
    stored = json.loads((_part(parts, done - 1).with_suffix(".json")).read_text())
    return Health(scorer.columns, **stored), done


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:08d}.parquet"


def _write_part(parts: Path, number: int, table: pa.Table, health: Health) -> None:
    path = _part(parts, number)
    counts = {k: v for k, v in vars(health).items() if k != "columns"}
    path.with_suffix(".json").write_text(json.dumps(counts))
    aside = parts / "unfinished"
    pq.write_table(table, aside, compression="zstd")
    sync(aside)
    os.replace(aside, path)  # the last step: a part that is there is whole, and so is its JSON


def _join(parts: Path, target: Path) -> None:
    """All parts in order as one file, which is renamed when it is whole."""
    paths = sorted(parts.glob("*.parquet"))
    if not paths:
        raise ValueError("score.input must have rows, got none")
    schema = pq.read_schema(paths[0])
    aside = target.with_name(f".unfinished-{target.name}")
    with ExitStack() as stack:
        writer: Any
        if target.suffix == ".csv":
            writer = stack.enter_context(pa_csv.CSVWriter(aside, schema))
        else:
            writer = stack.enter_context(pq.ParquetWriter(aside, schema, compression="zstd"))
        for path in paths:
            writer.write_table(pq.read_table(path))
    sync(aside)
    os.replace(aside, target)
