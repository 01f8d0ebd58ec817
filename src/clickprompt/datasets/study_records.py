"""The folder of a project's study cells, as one catalog entry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from clickprompt.studies.records import Records


class StudyRecordsDataset(AbstractDataset["None", "Records"]):
    """Records and predictions of cells; ``kedro study`` writes them, this reads.

    Args:
        path: the folder, ``studies.folder``.
        metadata: for Kedro-Viz; Kedro ignores it.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> Records:
        """The records; an empty folder has none."""
        from clickprompt.studies.records import Records

        return Records(self._path)

    def save(self, data: None) -> None:
        """Not for nodes."""
        raise DatasetError(f"{self._path} is written by kedro study, not by a node")

    def files(self) -> list[Path]:
        """All records (the up-to-date check looks at them)."""
        return sorted(path for path in self._path.rglob("*.json") if path.is_file())

    def _exists(self) -> bool:
        return self._path.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
