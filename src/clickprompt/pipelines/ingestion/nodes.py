"""Nodes of ingestion."""

from pathlib import Path
from typing import Any

from clickprompt.modality import CheckedInteractions
from clickprompt.parameters import DataParameters


def read_raw_files(raw_files: dict[str, Path], data: DataParameters) -> CheckedInteractions:
    """Open the published files; the dataset reads, checks and writes them batch by batch."""
    from clickprompt import modality, readers

    return modality.CheckedInteractions(readers.stream_interactions(raw_files, data), data)


def report_ingestion(stored_report: dict[str, Any]) -> dict[str, Any]:
    """Take the report, which was written with the table, as a file of its own."""
    return stored_report


def show_ingestion_report(ingestion_report: dict[str, Any]) -> None:
    """Print what became of the rows of the raw files; also where nothing had to be read."""
    from rich.console import Console

    from clickprompt.readers.report_table import report_table

    Console().print(report_table(ingestion_report))
