"""Interactions to the two views of each sample."""

from clickprompt.pipelines.modality_conversion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
