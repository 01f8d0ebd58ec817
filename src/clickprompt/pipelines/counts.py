"""The node that compares a run with published counts."""

import logging
from typing import Any

from clickprompt.parameters import DataParameters

logger = logging.getLogger(__name__)


def report_counts(
    data_report: dict[str, Any],
    filter_report: dict[str, Any],
    interaction_facts: dict[str, Any],
    data: DataParameters,
) -> None:
    """Print published beside found counts; warn where they differ."""
    from rich.console import Console

    from clickprompt.modality import expected

    counts = expected.compare_counts(data, data_report, filter_report, interaction_facts)
    if counts:
        Console().print(expected.counts_table(counts, data.reader))
    if message := expected.differences(counts):
        logger.warning(message)
