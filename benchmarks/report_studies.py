"""The section of the results page on the studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clickprompt.studies.page import findings, origin_line
from clickprompt.studies.tables import study_tables


def studies_section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What each study shows, and its tables.

    Args:
        results: name of a study -> what `benchmarks.studies` wrote.
    """
    parts = [
        "## The studies",
        "```sh\npython -m benchmarks.studies\n```",
        "Each is `kedro study NAME` on the embedded data. Settings were chosen on valid "
        '(`studies.settings`), test was looked at once. "Better" and "worse" are said only where '
        "the paired t-test over seeds, after Holm's correction, is below 0.05; with one seed the "
        "test on rows. Training times are of two cells at a time, with other work beside them: "
        "compare them roughly. Times of a quiet machine stand in the tables of the baselines.",
    ]
    for name, result in results.items():
        summary = dict(result)
        parts.append(f"### {name}\n\n{summary['question']}")
        parts.append("\n".join(f"- {line}" for line in findings(summary)))
        for table in study_tables(summary).values():
            parts += [f"{table.title}:", table.markdown().rstrip()]
        parts.append(f"{origin_line(summary)} {summary['machine']}.")
    return "\n\n".join(parts)
