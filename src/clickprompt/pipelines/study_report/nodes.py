"""Nodes of the report on a study."""

from typing import Any

from clickprompt.parameters import StudiesParameters


def summarise(records: Any, studies: StudiesParameters) -> dict[str, Any]:
    """Sum up the study that ``studies.report`` names: a plain dict of its ``Records``."""
    from clickprompt.studies.plan import saved_plan
    from clickprompt.studies.summary import summarise_study

    declared, planned = saved_plan(studies.report, records)
    return summarise_study(studies.report, declared, planned, records)


def write_pages(summary: dict[str, Any]) -> dict[str, str]:
    """Markdown, HTML, LaTeX and JSON, by file name."""
    from clickprompt.studies.page import study_pages

    return {f"{summary['study']}/{name}": text for name, text in study_pages(summary).items()}


def plot_study(summary: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Draw differences, improvement by size of the language model, long tail, training time."""
    from clickprompt.studies.figures import study_figures

    figures = study_figures(summary)
    names = ("differences", "plm_size", "long_tail", "training_time")
    return tuple(figures[name] for name in names)
