"""Digests, and folders that are either the old or the new one, never a half."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder and put it in place of ``folder``: aside, sync, rename.

    Args:
        folder: where the finished folder shall stand; an older one is replaced.
        write: gets the path of an empty folder beside it and writes all files there.

    Raises:
        OSError: nothing could be written (a full disk, say); the old folder is untouched and
            nothing half-written is left.
    """
    aside, old = _beside(folder, "writing"), _beside(folder, "old")
    recover_folder(folder)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        write(aside)
        for path in aside.iterdir():
            sync(path)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(
            error.errno,
            f"could not save {folder}: {error.strerror or error}; what was saved before remains",
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> bool:
    """Whether ``folder`` exists; puts the old one back if a replacement was interrupted."""
    old = _beside(folder, "old")
    if not folder.exists() and old.exists():
        with suppress(FileNotFoundError):  # another process has put it back
            old.rename(folder)
    return folder.exists()


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")
