"""Files that are either the old or the new one, never a half: write aside, sync, rename.

Every trained state is a folder of safetensors and JSON with a ``manifest.json`` that
holds each file's size and sha256. The manifest is written last and checked on load, so
an incomplete or damaged folder is an error that names the file, not a wrong model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

MANIFEST = "manifest.json"


class DamagedFolderError(ValueError):
    """A saved state is incomplete or was changed after it was written."""


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder and put it in place of ``folder`` in one rename.

    Args:
        folder: where the finished folder shall stand; an older one is replaced.
        write: gets the path of an empty folder beside it and writes all files there.

    Raises:
        OSError: nothing could be written (a full disk, say); the old folder is untouched and
            nothing half-written is left.
    """
    aside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        write(aside)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(aside.iterdir())
        }
        (aside / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        for path in aside.iterdir():
            _sync(path)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(
            error.errno,
            f"could not save {folder}: {error.strerror or error}; what was saved before remains",
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> bool:
    """Whether ``folder`` holds a state; puts the old one back if a rename was interrupted."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder.exists()


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


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
