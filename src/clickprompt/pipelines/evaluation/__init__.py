"""Saved predictions to metrics, tables and figures."""

from clickprompt.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
