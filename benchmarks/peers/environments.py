"""Environments of the other libraries: made once, with pinned versions, apart from ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"


def python_of(library: str, folder: Path, pip_options: Sequence[str] = ()) -> Path:
    """The interpreter of a library's environment, which is made where it is missing or outdated.

    Args:
        library: name of a file in ``requirements``, without its ending.
        folder: folder of all such environments.
        pip_options: options of ``pip install``, such as ``--find-links`` for a wheel of torch.

    Raises:
        ValueError: there is no such requirements file.
        RuntimeError: the installation failed; the message ends with pip's.
    """
    wanted = REQUIREMENTS / f"{library}.txt"
    if not wanted.exists():
        known = ", ".join(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
        raise ValueError(f"library must be one of {known}, got {library!r}")
    environment = folder / library
    python, done = environment / "bin" / "python", environment / "requirements.txt"
    if done.exists() and done.read_bytes() == wanted.read_bytes():
        return python
    print(f"making an environment for {library} in {environment}; this takes minutes")
    print(wanted.read_text(encoding="utf-8"), flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(environment)])
    _run([str(python), "-m", "pip", "install", "--quiet", *pip_options, "-r", str(wanted)])
    shutil.copyfile(wanted, done)  # last, so that an interrupted installation is made again
    return python


def pip_options(torch_wheels: str | None = None) -> list[str]:
    """Options of ``pip install`` for a CPU build of torch.

    Args:
        torch_wheels: folder of wheels or index page; None: ``TORCH_WHEELS`` of the environment, as
            ``make bench TORCH_WHEELS=...`` sets it, or else pip decides.
    """
    wheels = torch_wheels or os.environ.get("TORCH_WHEELS")
    if not wheels:
        return []
    return ["--find-links" if Path(wheels).is_dir() else "--extra-index-url", wheels]


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(
            f"{' '.join(command)} must end with code 0, got {finished.returncode}\n"
            f"{finished.stderr[-2000:]}"
        )
