"""Small pieces of the results page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def grid(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def origin(result: Mapping[str, Any]) -> str:
    """Date and machine of a result, as a sentence."""
    return f"{result['date']}, {result['machine']}."
