"""Published raw files: where they must lie, and proof that they are the right ones."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from clickprompt.files import file_digest


class RawFilesDataset(AbstractDataset[None, dict[str, Path]]):
    """Files of a published data set, checked before anything reads them.

    A file may also lie there gzipped (``ratings.dat.gz`` for ``ratings.dat``); its
    sha256 is that of the unpacked bytes.

    Args:
        path: the folder, relative to the project.
        files: file name -> sha256, or null for a file that is not checked.
        published_at: where a user gets the files, for the message when one is missing.
        metadata: for Kedro-Viz; Kedro ignores it.
    """

    def __init__(
        self,
        *,
        path: str,
        files: Mapping[str, str | None],
        published_at: str,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(path)
        self._files = dict(files)
        self._published_at = published_at
        self.metadata = metadata

    def load(self) -> dict[str, Path]:
        """Return file name -> path.

        Raises:
            DatasetError: files are missing (all are named, with the folder and where they are
                published), or a file's sha256 is not the expected one (file, expected, found).
        """
        found = {name: self._find(name) for name in self._files}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            raise DatasetError(
                f"{', '.join(missing)} must lie in {self._path}, got no such "
                f"file{'s' if len(missing) > 1 else ''}; get it from {self._published_at}"
            )
        paths = {name: path for name, path in found.items() if path is not None}
        for name, expected in self._files.items():
            if expected is not None and (digest := _content_digest(paths[name])) != expected:
                raise DatasetError(
                    f"{paths[name]} must have sha256 {expected}, got {digest}; it is damaged "
                    f"or of another edition: get it again from {self._published_at}"
                )
        return paths

    def save(self, data: None) -> NoReturn:
        """Refuse: published files are never written."""
        raise DatasetError("raw files are published by others and never written by this project")

    def files(self) -> list[Path]:
        """Paths of the files that are there (the up-to-date check looks at them)."""
        return [path for name in self._files if (path := self._find(name)) is not None]

    def _find(self, name: str) -> Path | None:
        plain = self._path / name
        packed = self._path / f"{name}.gz"
        return plain if plain.is_file() else packed if packed.is_file() else None

    def _exists(self) -> bool:
        return len(self.files()) == len(self._files)

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path), "files": sorted(self._files)}


def _content_digest(path: Path) -> str:
    if path.suffix != ".gz":
        return file_digest(path)
    digest = hashlib.sha256()
    with gzip.open(path, "rb") as unpacked:
        while block := unpacked.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
