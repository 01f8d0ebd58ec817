"""Where benchmark results go: one JSON file each, with a line about the machine."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"


def machine_line() -> str:
    """Processor, cores, memory and the versions that decide the speed, in one line."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}"
    )


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` with the machine and the date."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    entry = {"machine": machine_line(), "date": datetime.now(UTC).date().isoformat(), **result}
    aside = path.with_suffix(".writing")
    aside.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
