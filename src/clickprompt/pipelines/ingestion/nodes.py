"""Nodes of ingestion."""

from pathlib import Path
from typing import Any

from clickprompt.parameters import DataParameters


def read_raw_files(raw_files: dict[str, Path], data: DataParameters) -> tuple[Any, dict[str, Any]]:
    """Read the published files: the interactions table, and which rows were dropped and why."""
    from clickprompt.readers import read_interactions

    result = read_interactions(raw_files, data)
    return result.interactions, result.report
