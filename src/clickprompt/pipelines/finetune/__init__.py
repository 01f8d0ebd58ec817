"""Finetuning without and with the language model."""

from clickprompt.pipelines.finetune.pipeline import create_pipeline

__all__ = ["create_pipeline"]
