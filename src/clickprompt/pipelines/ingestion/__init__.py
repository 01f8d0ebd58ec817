"""Published raw files to one interactions table."""

from clickprompt.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
