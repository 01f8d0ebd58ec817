"""The prompt generator and its layouts."""

from clickprompt.prompts.generator import PromptGenerator, rows_from_reference

__all__ = ["PromptGenerator", "rows_from_reference"]
