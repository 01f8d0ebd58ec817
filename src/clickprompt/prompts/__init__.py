"""The prompt generator and its layouts."""

from clickprompt.prompts.generator import PromptGenerator, rows_from_reference
from clickprompt.prompts.layouts import (
    HiddenStatePrompts,
    InputPrompts,
    KeyValuePrompts,
    Prompts,
)

__all__ = [
    "HiddenStatePrompts",
    "InputPrompts",
    "KeyValuePrompts",
    "PromptGenerator",
    "Prompts",
    "rows_from_reference",
]
