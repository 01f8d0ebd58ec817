"""What the notebooks share."""

from __future__ import annotations

from contextlib import chdir

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from clickprompt import notebook
from tests.end_to_end.project import REPOSITORY


def test_a_folder_outside_of_a_project_is_refused(tmp_path):
    with (
        chdir(tmp_path),
        pytest.raises(FileNotFoundError, match="must be started in the project folder or below it"),
    ):
        notebook.enter_project()


@pytest.mark.parametrize("start", [".", "notebooks", "src/clickprompt"])
def test_the_project_is_found_from_below(start):
    with chdir(REPOSITORY / start):
        assert notebook.enter_project() == REPOSITORY


def test_shapes_have_the_letters_of_the_name(capsys):
    notebook.shapes(x_id_BF=np.zeros((1200, 5)), q_BD=np.zeros((3, 7)))
    assert capsys.readouterr().out.splitlines() == [
        "x_id_BF  B = 1,200, F = 5",
        "q_BD     B = 3, D = 7",
    ]
    with pytest.raises(ValueError, match=r"q_BD must end in one letter .* got the shape \(3,\)"):
        notebook.shapes(q_BD=np.zeros(3))


class Catalog:
    def exists(self, name: str) -> bool:
        return name == "made"


def test_cells_are_skipped_until_the_first_one_runs_again(monkeypatch, capsys):
    shell = InteractiveShell()
    monkeypatch.setattr(notebook, "_shell", lambda: shell)
    shell.user_ns |= {"notebook": notebook, "catalog": Catalog()}
    with chdir(REPOSITORY):
        for line in (
            "notebook.need(catalog, 'made', command='kedro run')",
            "a = 1",
            "notebook.need(catalog, 'made', 'one', 'two', command='kedro run')",
            "b = 1",
            "project = notebook.enter_project()",
            "c = 1",
        ):
            assert shell.run_cell(line).success
    assert {"a", "c", "project"} <= set(shell.user_ns)
    assert "b" not in shell.user_ns
    assert capsys.readouterr().out == (
        "Not made yet: one, two. `kedro run` makes them. "
        "Then run this notebook again; the cells below are skipped.\n"
    )
