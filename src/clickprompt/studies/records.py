"""What is kept of cells: a folder a cell, by digest, whatever study or machine trained it.

    <folder>/cells/<16 digits>/record.json        what it reached, and how
    <folder>/cells/<16 digits>/probabilities.npy  of the test rows, float32
    <folder>/failures/<16 digits>.json            why it failed when it was last tried
    <folder>/data/<16 digits>/                    what the cells of the same data share
    <folder>/data/<key>.json                      parameters of data -> its digest
    <folder>/plans/<study>.json                   the study and its cells, as last asked for
    <folder>/runs/<study>.json                    where the tracked runs are

Cells that were trained elsewhere count as soon as their folders are copied here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from clickprompt.evaluation.long_tail import TrainFacts, train_facts
from clickprompt.files import recover_folder, replace_folder
from clickprompt.modality import ModelInput
from clickprompt.studies.cells import Cell
from clickprompt.training.result import TrainedModel, stages_of

RECORD = "record.json"
PROBABILITIES = "probabilities.npy"
ROWS = "test_rows.parquet"
FACTS = "facts.json"
DIGITS = 16


class CellRecord(BaseModel):
    """A trained cell.

    Attributes:
        digest: of the cell.
        data_digest: of the arrays that it was trained on.
        model: key of ``MODELS``.
        seed: of its training.
        parameters: those that decide its weights.
        stages: name, digest and seconds of each stage, its own last.
        metrics: of valid and test.
        history: one entry an epoch of its own stage.
        ctr, plm: names, as in the result tables.
        parameter_counts: by part, of what serves.
        plm_parameters: of the language model that it has learnt from; None without one.
        scored_rows_per_second: of valid and test, after training.
        device, precision, threads, processes: where it was trained; processes: cells at once.
        versions: of what decides the numbers.
        ended: time of its end, UTC.
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    data_digest: str
    model: str
    seed: int
    parameters: dict[str, Any]
    stages: list[dict[str, Any]]
    metrics: dict[str, float | None]
    history: list[dict[str, Any]]
    ctr: str | None
    plm: str | None
    parameter_counts: dict[str, int]
    plm_parameters: int | None
    scored_rows_per_second: float | None
    device: str
    precision: str
    threads: int
    processes: int
    versions: dict[str, str]
    ended: str

    @property
    def seconds(self) -> float:
        """Of all its stages."""
        return float(sum(stage["seconds"] for stage in self.stages))


@dataclass(frozen=True)
class TestRows:
    """What the cells of the same data share.

    Attributes:
        rows: columns ``row``, ``label``, ``user_train_rows``, ``item_train_rows``, one line a test
            row, in the order of every cell's probabilities.
        facts: of the train split.
    """

    __test__ = False  # no test case, whatever its name says

    rows: pd.DataFrame
    facts: TrainFacts


class Records:
    """The folder of records.

    Args:
        folder: ``studies.folder``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._test_rows: dict[str, TestRows] = {}

    def find(self, digest: str) -> CellRecord | None:
        """The record of a trained cell; None where there is none."""
        folder = self._cell(digest)
        if not recover_folder(folder):
            return None
        text = (folder / RECORD).read_text(encoding="utf-8")
        record = CellRecord.model_validate_json(text)
        return record if record.digest == digest else None

    def all(self) -> list[CellRecord]:
        """All records, in the order of their ends."""
        paths = sorted((self.folder / "cells").glob(f"*/{RECORD}"))
        found = [CellRecord.model_validate_json(p.read_text(encoding="utf-8")) for p in paths]
        return sorted(found, key=lambda record: record.ended)

    def probabilities(self, digest: str) -> np.ndarray:
        """Of the test rows (rows,), float64, in the order of :meth:`test_rows`."""
        return np.load(self._cell(digest) / PROBABILITIES, allow_pickle=False).astype(np.float64)

    def test_rows(self, data_digest: str) -> TestRows:
        """What the predictions of this data are compared on; not to be changed."""
        if data_digest not in self._test_rows:
            folder = self._data(data_digest)
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            del facts["tail_share"]
            rows = TestRows(pd.read_parquet(folder / ROWS), TrainFacts(**facts))
            self._test_rows[data_digest] = rows
        return self._test_rows[data_digest]

    def save(self, cell: Cell, digest: str, trained: TrainedModel, processes: int) -> CellRecord:
        """Write the record of a cell that was trained just now, or was found trained."""
        report = trained.report
        stages = stages_of(trained)
        record = CellRecord(
            digest=digest,
            data_digest=report["data"],
            model=cell.model,
            seed=cell.seed,
            parameters=dict(cell.parameters),
            stages=stages,
            metrics=report["metrics"],
            history=report["history"],
            ctr=report["ctr"],
            plm=report["plm"] or cell.parameters.get("plm", {}).get("source"),
            parameter_counts=report["parameter_counts"],
            plm_parameters=_plm_parameters(trained, stages),
            scored_rows_per_second=report.get("scored_rows_per_second"),
            device=report["device"],
            precision=report["precision"],
            threads=report["threads"],
            processes=processes,
            versions=report["versions"],
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        predictions = pd.read_parquet(trained.predictions_path)
        test = predictions[predictions["split"] == "test"].sort_values("row")
        probabilities = test["probability"].to_numpy(np.float32)

        def write(folder: Path) -> None:
            np.save(folder / PROBABILITIES, probabilities, allow_pickle=False)
            text = json.dumps(record.model_dump(mode="json"), indent=1)
            (folder / RECORD).write_text(text + "\n", encoding="utf-8")

        replace_folder(self._cell(digest), write)
        self._failure(digest).unlink(missing_ok=True)
        return record

    def save_data(self, key: str, model_input: ModelInput, tail_share: float) -> None:
        """Write what all cells of this data share, and its digest for :meth:`data_digest`."""
        digest = model_input.digest
        folder = self._data(digest)
        if not recover_folder(folder) or _tail_share(folder) != tail_share:
            train, test = model_input.rows("train"), model_input.rows("test")
            facts = train_facts(
                model_input.labels[train],
                model_input.user_train_rows[train],
                model_input.item_train_rows[train],
                tail_share,
            )
            rows = pd.DataFrame(
                {
                    "row": model_input.row_numbers[test],
                    "label": model_input.labels[test],
                    "user_train_rows": model_input.user_train_rows[test],
                    "item_train_rows": model_input.item_train_rows[test],
                }
            ).sort_values("row", ignore_index=True)

            def write(aside: Path) -> None:
                rows.to_parquet(aside / ROWS, index=False)
                text = json.dumps({"tail_share": tail_share, **asdict(facts)}, indent=1)
                (aside / FACTS).write_text(text + "\n", encoding="utf-8")

            replace_folder(folder, write)
            self._test_rows.pop(digest, None)
        if self.data_digest(key) != digest:
            _write_json(self.folder / "data" / f"{key[:DIGITS]}.json", {"digest": digest})

    def data_digest(self, key: str) -> str | None:
        """Digest of the arrays that these data parameters made last; None: never made."""
        path = self.folder / "data" / f"{key[:DIGITS]}.json"
        if not path.is_file():
            return None
        return str(json.loads(path.read_text(encoding="utf-8"))["digest"])

    def save_failure(self, digest: str, name: str, error: str) -> None:
        """Note why a cell failed."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        _write_json(self._failure(digest), {"cell": name, "error": error, "ended": now})

    def failure(self, digest: str) -> Mapping[str, str] | None:
        """Name, error and time of a cell's last failure; None: it has not failed since."""
        path = self._failure(digest)
        if not path.is_file():
            return None
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def save_plan(self, study: str, plan: Mapping[str, Any]) -> None:
        """Note what a study consists of, for its report."""
        _write_json(self._plan(study), plan)

    def plan(self, study: str) -> dict[str, Any] | None:
        """What the study consists of; None: it was never asked for here."""
        path = self._plan(study)
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _plan(self, study: str) -> Path:
        return self.folder / "plans" / f"{study}.json"

    def save_runs(self, study: str, runs: Mapping[str, str]) -> None:
        """Note where the tracked run of each cell is: digest -> address."""
        _write_json(self._runs(study), runs)

    def runs(self, study: str) -> dict[str, str]:
        """Digest of a cell -> address of its tracked run; empty where they are not known."""
        path = self._runs(study)
        found: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return found

    def _runs(self, study: str) -> Path:
        return self.folder / "runs" / f"{study}.json"

    def _cell(self, digest: str) -> Path:
        return self.folder / "cells" / digest[:DIGITS]

    def _data(self, digest: str) -> Path:
        return self.folder / "data" / digest[:DIGITS]

    def _failure(self, digest: str) -> Path:
        return self.folder / "failures" / f"{digest[:DIGITS]}.json"


def _plm_parameters(trained: TrainedModel, stages: list[dict[str, Any]]) -> int | None:
    """Size of the encoder that the model, or the stage it started from, has."""
    folder = Path(trained.folder).parents[2]
    for stage in reversed(stages):
        path = folder / stage["stage"] / stage["digest"][:DIGITS] / "result" / "report.json"
        if path.is_file():
            counts = json.loads(path.read_text(encoding="utf-8"))["parameter_counts"]
            if "encoder" in counts:
                return int(counts["encoder"])
    return None


def _tail_share(folder: Path) -> float:
    share: float = json.loads((folder / FACTS).read_text(encoding="utf-8"))["tail_share"]
    return share


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)
