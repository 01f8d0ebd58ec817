"""The CTR model alone, trained from scratch."""

from clickprompt.pipelines.backbone.pipeline import create_pipeline

__all__ = ["create_pipeline"]
