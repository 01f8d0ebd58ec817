"""The models that ClickPrompt is compared with."""

from clickprompt.pipelines.baseline.pipeline import create_pipeline

__all__ = ["create_pipeline"]
