"""ClickPrompt with the language model as the teacher of ClickPrompt without it."""

from clickprompt.pipelines.distillation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
