"""A data catalog whose files are either the old or the new one, never a half."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractVersionedDataset, DataCatalog

from clickprompt.files import sync


class WholeFileCatalog(DataCatalog):
    """Saves a local file under another name beside it, then renames it into place.

    So a full disk or a killed process leaves the good file of an earlier run. It holds for every
    Kedro dataset that writes one local file, so the engine stays the catalog's choice. A
    versioned dataset or a remote one is saved as Kedro does it.
    """

    def save(self, ds_name: str, data: Any) -> None:
        """Save ``data`` to the dataset ``ds_name``.

        Raises:
            DatasetError: it could not be saved; what was saved before is unchanged.
        """
        dataset: Any = self[ds_name]
        target = _local_file(dataset)
        if target is None:
            super().save(ds_name, data)
            return
        # The suffix stays last: some datasets choose the format by it.
        aside = target.with_name(f".unfinished-{target.name}")
        dataset._filepath = PurePosixPath(aside)
        try:
            super().save(ds_name, data)
            sync(aside)
            os.replace(aside, target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        finally:
            dataset._filepath = PurePosixPath(target)


def _local_file(dataset: Any) -> Path | None:
    """Path of a plain local file that ``dataset`` writes, or None."""
    if not isinstance(dataset, AbstractVersionedDataset) or dataset._version is not None:
        return None
    if getattr(dataset, "_protocol", "file") != "file":
        return None
    path = Path(str(dataset._filepath))
    return None if path.is_dir() else path
