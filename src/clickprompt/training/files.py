"""Folders of trained states.

Every trained state is a folder of safetensors and JSON with a ``manifest.json`` that
holds each file's size and sha256. The manifest is written last and checked on load, so
an incomplete or damaged folder is an error that names the file, not a wrong model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clickprompt.files import file_digest, replace_folder

MANIFEST = "manifest.json"


class DamagedFolderError(ValueError):
    """A saved state is incomplete or was changed after it was written."""


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """`clickprompt.files.replace_folder` with a manifest of what ``write`` wrote."""

    def write_all(aside: Path) -> None:
        write(aside)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(aside.iterdir())
        }
        (aside / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")

    replace_folder(folder, write_all)


def check_folder(folder: Path) -> None:
    """Compare every file of ``folder`` with its manifest.

    Raises:
        DamagedFolderError: names the file, what was expected and what was found.
    """
    remedy = f"delete {folder} to make it again"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedFolderError(
            f"{folder / MANIFEST} cannot be read ({error}); {remedy}"
        ) from None
    for name, expected in manifest.items():
        path = folder / name
        if not path.exists():
            raise DamagedFolderError(f"{path} is missing; {remedy}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise DamagedFolderError(
                f"{path} must have {expected['bytes']} bytes, got {size}; {remedy}"
            )
        found = file_digest(path)
        if found != expected["sha256"]:
            raise DamagedFolderError(
                f"{path} must have sha256 {expected['sha256']}, got {found}; {remedy}"
            )


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Save tensors as safetensors (no pickle); shared storage is written once per name."""
    try:
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # it wraps the system's error in its text
        raise OSError(28 if "No space" in str(error) else 5, str(error)) from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file.

    Raises:
        DamagedFolderError: the file is not a whole safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedFolderError(f"{path} cannot be read: {error}") from None
