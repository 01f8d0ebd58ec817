"""Nodes of ingestion."""

from pathlib import Path
from typing import Any

from clickprompt.parameters import DataParameters


def read_raw_files(raw_files: dict[str, Path], data: DataParameters) -> tuple[Any, dict[str, Any]]:
    """Read the published files: the interactions table, and which rows were dropped and why."""
    from clickprompt.readers import read_interactions

    result = read_interactions(raw_files, data)
    return result.interactions, result.report


def report_ingestion(report: dict[str, Any]) -> None:
    """Print what became of the rows of the raw files."""
    from rich.console import Console

    from clickprompt.readers.tables import report_table

    Console().print(report_table(report))
