"""The memory-mapped arrays of the two views, as one catalog entry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

if TYPE_CHECKING:
    from clickprompt.modality import FieldCodes, IdView, ModelInput, PieceTokens, TextView


class ModelInputDataset(
    AbstractDataset["tuple[FieldCodes, IdView, TextView, PieceTokens]", "ModelInput"]
):
    """A folder of ``.npy`` files and ``metadata.json``: saved from both views, loaded mapped.

    Args:
        path: the folder, relative to the project.
        metadata: for Kedro-Viz; Kedro ignores it.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> ModelInput:
        """Check and map the arrays."""
        from clickprompt.modality import ModelInput

        return ModelInput.open(self._path)

    def save(self, data: tuple[FieldCodes, IdView, TextView, PieceTokens]) -> None:
        """Write a new folder and rename it into place."""
        from clickprompt.modality import write_model_input

        write_model_input(self._path, *data)

    def files(self) -> list[Path]:
        """All files of the folder (the up-to-date check looks at them)."""
        return sorted(path for path in self._path.rglob("*") if path.is_file())

    def _exists(self) -> bool:
        return (self._path / "metadata.json").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
