"""Records of a study's cells to tables, figures and pages."""

from clickprompt.pipelines.study_report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
