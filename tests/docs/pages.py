"""The pages of the documentation, taken apart: fenced blocks, inline code, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
)
LANGUAGES = {"sh", "python", "yaml", "text", "math", "bibtex", ""}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language and its lines."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    """Blocks of a page, of one language or of all.

    Raises:
        ValueError: a fence that is not closed.
    """
    found: list[Block] = []
    start: tuple[int, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(read(page).splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif start is None:
            start, lines = (number, line.removeprefix("```").strip()), []
        else:
            found.append(Block(page, *start, "\n".join(lines)))
            start = None
    if start is not None:
        raise ValueError(f"{page}:{start[0]}: the block must be closed")
    return [block for block in found if language in (None, block.language)]


def commands(block: Block) -> list[list[str]]:
    """Words of every command of a shell block; comments and empty lines are left out."""
    joined = block.text.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [command for command in words if command]


def prose(page: str) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: str) -> list[tuple[str, str]]:
    """File (empty: the page itself) and anchor (or empty) of links within the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    parts = [t.partition("#") for t in targets if "://" not in t]
    return [(file, anchor) for file, _, anchor in parts]


def anchors(page: str) -> set[str]:
    """Of the headings, as GitHub makes them: lower case, blanks as hyphens, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    kept = ("".join(c for c in t.lower() if c.isalnum() or c in " -_") for t in titles)
    return {title.replace(" ", "-") for title in kept}
