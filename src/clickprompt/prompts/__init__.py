"""The prompt generators and their layouts."""

from clickprompt.prompts.generator import (
    AnyGenerator,
    HiddenStateGenerator,
    InputGenerator,
    PromptGenerator,
    build_generator,
    input_rows_from_reference,
    rows_from_reference,
)
from clickprompt.prompts.layouts import (
    HiddenStatePrompts,
    InputPrompts,
    KeyValuePrompts,
    Prompts,
)

__all__ = [
    "AnyGenerator",
    "HiddenStateGenerator",
    "HiddenStatePrompts",
    "InputGenerator",
    "InputPrompts",
    "KeyValuePrompts",
    "PromptGenerator",
    "Prompts",
    "build_generator",
    "input_rows_from_reference",
    "rows_from_reference",
]
