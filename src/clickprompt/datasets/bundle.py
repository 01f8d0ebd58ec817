"""The bundle of a trained model, as one catalog entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset


class BundleDataset(AbstractDataset[Callable[[Path], Any], Path]):
    """A folder that scoring needs nothing beside: saved by what writes it, loaded as its path.

    Args:
        path: the folder, relative to the project.
        metadata: for Kedro-Viz; Kedro ignores it.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> Path:
        """The folder."""
        return self._path

    def save(self, data: Callable[[Path], Any]) -> None:
        """Let ``data`` write the folder: whole, or not at all."""
        data(self._path)

    def files(self) -> list[Path]:
        """All files of the folder (the up-to-date check looks at them)."""
        return sorted(path for path in self._path.rglob("*") if path.is_file())

    def _exists(self) -> bool:
        return (self._path / "manifest.json").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
