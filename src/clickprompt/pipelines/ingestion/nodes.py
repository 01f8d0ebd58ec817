"""Nodes of ingestion."""

from pathlib import Path
from typing import Any

from clickprompt.parameters import DataParameters
from clickprompt.readers import InteractionStream


def read_raw_files(raw_files: dict[str, Path], data: DataParameters) -> InteractionStream:
    """Open the published files; the dataset reads and writes them batch by batch."""
    from clickprompt.readers import stream_interactions

    return stream_interactions(raw_files, data)


def report_ingestion(interactions_report: dict[str, Any]) -> dict[str, Any]:
    """Show which rows were dropped or repaired, and why."""
    return interactions_report
