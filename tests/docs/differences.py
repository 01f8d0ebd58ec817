"""docs/differences.md from the ``NOTE[DIFF]`` comments of the package.

    python -m tests.docs.differences     writes it

A note stands in a docstring or in a comment, begins a line with ``NOTE[DIFF]:`` and ends at the
next empty line (or at the end of the docstring or comment).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "clickprompt"
PAGE = REPOSITORY / "docs" / "differences.md"
COMMAND = "python -m tests.docs.differences"

# What an author may have meant, and what it must look like.
INTENDED = re.compile(r"\bnote\s*[\[({]\s*diff\w*\s*[\])}]", re.IGNORECASE)
EXACT = re.compile(r'^\s*(?P<opening>#|"""|)\s*NOTE\[DIFF\]:?\s+\S')
LEAST_WORDS = 8

HEADER = f"""# Differences from the paper and from the authors' code

What this project does on purpose in another way than the ClickPrompt paper (arXiv 2310.09234) or
its released code ("the reference"). The list is made from the `NOTE[DIFF]` notes of the source by
`{COMMAND}`; a test fails when it is stale. [method.md](method.md) explains the method as a whole.

| where | difference |
|---|---|
"""


@dataclass(frozen=True)
class Note:
    """One difference: its file (relative to the package), what it stands in, its text."""

    file: str
    place: str
    text: str


def collect(package: Path = PACKAGE) -> list[Note]:
    """All notes, by file and position.

    Raises:
        ValueError: notes that are malformed; each with its file, line and what is wrong.
    """
    notes: list[Note] = []
    mistakes: list[str] = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not INTENDED.search(source):
            continue
        name = path.relative_to(package).as_posix()
        lines = source.splitlines()
        for number, line in enumerate(lines, 1):
            if not INTENDED.search(line):
                continue
            found = EXACT.match(line)
            if found is None:
                mistakes.append(f"{name}:{number}: must begin with 'NOTE[DIFF]: ', got {line!r}")
                continue
            text = _text(lines, number, comment=found["opening"] == "#")
            if len(text.split()) < LEAST_WORDS:
                mistakes.append(f"{name}:{number}: must say what differs and what is done here")
                continue
            notes.append(Note(name, _place(source, number), text))
    if mistakes:
        raise ValueError("malformed notes:\n" + "\n".join(mistakes))
    return notes


def render(notes: list[Note]) -> str:
    """The page."""
    return HEADER + "".join(
        f"| [{note.file}](../src/clickprompt/{note.file}), `{note.place}` | {note.text} |\n"
        for note in notes
    )


def _text(lines: list[str], number: int, *, comment: bool) -> str:
    """The note that begins in line ``number``, as one line of Markdown."""
    parts: list[str] = []
    for line in lines[number - 1 :]:
        part = line.strip()
        if comment:
            if not part.startswith("#"):
                break
            part = part.removeprefix("#").strip()
        end = '"""' in part.removeprefix('"""')
        part = part.replace('"""', "").strip()
        if not part:
            break
        parts.append(part)
        if end:
            break
    text = re.sub(r"^NOTE\[DIFF\]:?\s+", "", " ".join(parts))
    text = text[:1].upper() + text[1:]
    return text.replace("``", "`").replace("|", "\\|")


def _place(source: str, number: int) -> str:
    """Innermost class or function that line ``number`` stands in."""
    place, size = "module", len(source)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        if node.lineno <= number <= node.end_lineno and node.end_lineno - node.lineno < size:
            place, size = node.name, node.end_lineno - node.lineno
    return place


if __name__ == "__main__":
    PAGE.write_text(render(collect()), encoding="utf-8")
    print(f"{PAGE.relative_to(REPOSITORY)}: {len(collect())} differences")
