"""Small pieces of the results page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def grid(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def origin(result: Mapping[str, Any]) -> str:
    """Date and machine of a result, as a sentence."""
    return f"{result['date']}, {result['machine']}."


def contents(parts: Iterable[str]) -> str:
    """Links to the sections, by the names that GitHub gives their anchors."""
    titles = re.findall(r"^## (.+)$", "\n".join(parts), flags=re.MULTILINE)
    return "\n".join(f"- [{title}](#{_anchor(title)})" for title in titles)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
