"""The codes of all columns, in files that may exceed memory, as one catalog entry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

if TYPE_CHECKING:
    import pandas as pd

    from clickprompt.modality import FieldCodes
    from clickprompt.parameters import DataParameters


class FieldCodesDataset(AbstractDataset["tuple[Any, pd.DataFrame, DataParameters]", "FieldCodes"]):
    """A folder of arrays: saved from interactions and samples, batch by batch, loaded mapped.

    Args:
        path: the folder, relative to the project.
        metadata: for Kedro-Viz; Kedro ignores it.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> FieldCodes:
        """Map the arrays."""
        from clickprompt.modality import FieldCodes

        return FieldCodes.open(self._path)

    def save(self, data: tuple[Any, pd.DataFrame, DataParameters]) -> None:
        """Read the interactions and write a new folder, then rename it into place."""
        from clickprompt.modality import encode_fields

        encode_fields(*data, folder=self._path)

    def files(self) -> list[Path]:
        """All files of the folder (the up-to-date check looks at them)."""
        return sorted(path for path in self._path.rglob("*") if path.is_file())

    def _exists(self) -> bool:
        return (self._path / "columns.json").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
