"""Prompt-augmented masked language modelling."""

from clickprompt.pipelines.pretrain.pipeline import create_pipeline

__all__ = ["create_pipeline"]
