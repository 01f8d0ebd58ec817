"""Trained models in use: their bundles, and raw rows in a file to probabilities."""

from clickprompt.pipelines.score.pipeline import create_bundle_pipeline, create_pipeline

__all__ = ["create_bundle_pipeline", "create_pipeline"]
