"""What the notebooks share: finding the project, one sentence where something is missing, shapes.

Used inside IPython; kedro and matplotlib are imported by what needs them.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

FIRST = "enter_project"  # a cell with this call is the notebook's first one


class Catalog(Protocol):
    """What is asked of Kedro's catalog."""

    def exists(self, name: str) -> bool:
        """Whether a dataset is made."""


def enter_project() -> Path:
    """Make the project that the working folder lies in the working folder.

    Returns:
        The project's folder.

    Raises:
        FileNotFoundError: the working folder is in no Kedro project.
    """
    from kedro.utils import find_kedro_project

    _run_cells()
    found = find_kedro_project(Path.cwd())
    if found is None:
        raise FileNotFoundError(
            f"a notebook must be started in the project folder or below it, got {Path.cwd()}"
        )
    project = Path(found)
    os.chdir(project)
    return project


@contextmanager
def untracked() -> Iterator[None]:
    """Sessions inside make no MLflow run, nor its database where there is none yet."""
    from clickprompt.running import RunningPart, inside

    with inside(RunningPart("notebook", "notebook", own_results=False, tracked=False)):
        yield


def need(catalog: Catalog, *names: str, command: str) -> None:
    """Go on if all these datasets are made; else say by which command, and skip the other cells.

    Args:
        catalog: Kedro's.
        names: of datasets.
        command: that makes them.
    """
    missing = [name for name in names if not catalog.exists(name)]
    if missing:
        stop(f"Not made yet: {', '.join(missing)}. `{command}` makes {_them(missing)}.")


def stop(sentence: str) -> None:
    """Print a sentence; cells after this one do nothing until the notebook's first one runs."""
    print(f"{sentence} Then run this notebook again; the cells below are skipped.")
    shell = _shell()
    if shell is not None:
        shell.ast_transformers.append(_Skip())


def shapes(**arrays: Any) -> None:
    """Print shapes with the letters of the names: ``x_id_BF`` has rows B and fields F.

    Raises:
        ValueError: a name has not as many letters as its array has dimensions.
    """
    width = max(map(len, arrays), default=0)
    for name, array in arrays.items():
        letters = name.rpartition("_")[2]
        if len(letters) != len(array.shape):
            raise ValueError(
                f"{name} must end in one letter for each dimension, got the shape "
                f"{tuple(array.shape)}"
            )
        sizes = ", ".join(f"{k} = {n:,}" for k, n in zip(letters, array.shape, strict=True))
        print(f"{name:<{width}}  {sizes}")


def plot_style() -> None:
    """Matplotlib's settings of all pictures."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
        }
    )


class _Skip(ast.NodeTransformer):
    """Empties cells, all but the notebook's first one."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        names = (getattr(part, "attr", getattr(part, "id", None)) for part in ast.walk(node))
        if FIRST in names:
            return node
        return ast.Module(body=[], type_ignores=[])


def _run_cells() -> None:
    """Skip no more."""
    shell = _shell()
    if shell is not None:
        shell.ast_transformers[:] = [
            other for other in shell.ast_transformers if not isinstance(other, _Skip)
        ]


def _shell() -> Any:
    """IPython's shell; None outside of one."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return get_ipython()


def _them(names: list[str]) -> str:
    return "them" if len(names) > 1 else "it"
