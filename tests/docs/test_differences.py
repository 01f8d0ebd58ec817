"""docs/differences.md lists every NOTE[DIFF] of the package, in its present words."""

from __future__ import annotations

import re

import pytest

from tests.docs.differences import COMMAND, PACKAGE, PAGE, REPOSITORY, collect, render


def write(folder, text):
    (folder / "part").mkdir(exist_ok=True)
    (folder / "part" / "module.py").write_text(text)
    return folder


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(collect()), f"stale: run {COMMAND}"


def test_page_has_a_line_for_every_mention_in_the_source():
    mentions = sum(path.read_text().count("NOTE[DIFF]") for path in PACKAGE.rglob("*.py"))
    assert mentions > 0
    assert len(re.findall(r"^\| \[", PAGE.read_text(), flags=re.MULTILINE)) == mentions


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\((\.\./[^)]+)\)", PAGE.read_text())
    assert links
    for link in links:
        assert (REPOSITORY / "docs" / link).is_file(), link


def test_note_of_a_docstring_ends_at_the_empty_line(tmp_path):
    source = (
        'class Model:\n    """What it is.\n\n    NOTE[DIFF]: the reference does ``one`` | and\n'
        '    here it is another thing.\n\n    Args:\n        x: no part of it.\n    """\n'
    )
    (note,) = collect(write(tmp_path, source))
    assert (note.file, note.place) == ("part/module.py", "Model")
    assert note.text == "The reference does `one` \\| and here it is another thing."


def test_note_of_a_comment_ends_with_the_comment(tmp_path):
    source = (
        "def f():\n    # NOTE[DIFF]: the paper says that x is\n    # one, here it is two.\n"
        "    return 2  # not this\n"
    )
    (note,) = collect(write(tmp_path, source))
    assert note.place == "f"
    assert note.text == "The paper says that x is one, here it is two."


def test_note_may_end_the_docstring(tmp_path):
    source = '"""NOTE[DIFF]: the paper has eight words here, we have nine."""\nX = 1\n'
    (note,) = collect(write(tmp_path, source))
    assert note.place == "module"
    assert note.text.endswith("we have nine.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# NOTE(DIFF): the reference does this and here it is that", "must begin with"),
        ("# note[diff]: the reference does this and here it is that", "must begin with"),
        ("# NOTE[DIFFERENCE]: the reference does this and here it is that", "must begin with"),
        ("x = 1  # NOTE[DIFF]: the reference does this and here it is that", "must begin with"),
        ("# see NOTE[DIFF]: the reference does this and here it is that", "must begin with"),
        ("# NOTE[DIFF]:", "must begin with"),
        ("# NOTE[DIFF]: the sum", "must say what differs"),
    ],
)
def test_malformed_note_is_an_error_that_names_file_and_line(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"part/module.py:2: {message}"):
        collect(write(tmp_path, f"x = 0\n{line}\n"))


def test_all_malformed_notes_are_told_at_once(tmp_path):
    source = "# NOTE(DIFF): a\n# other\n# NOTE[DIFF]: b\n"
    with pytest.raises(ValueError, match=r"(?s)module.py:1.*module.py:3"):
        collect(write(tmp_path, source))
