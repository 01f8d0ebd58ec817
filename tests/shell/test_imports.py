"""The direction of imports is a promise of the architecture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.project import REPOSITORY


def lint(config: Path, folder: Path, path: Path):
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(command), "--config", str(config), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_downwards_only():
    done = lint(REPOSITORY / ".importlinter", REPOSITORY, REPOSITORY / "src")
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout


def test_an_upward_import_is_found(tmp_path):
    package = tmp_path / "clickprompt"
    for name in ("", "readers", "modality"):
        (package / name).mkdir(exist_ok=True)
        (package / name / "__init__.py").write_text("")
    (package / "readers" / "__init__.py").write_text("import clickprompt.modality\n")
    config = tmp_path / ".importlinter"
    config.write_text(
        "[importlinter]\nroot_packages = clickprompt\n\n"
        "[importlinter:contract:layers]\nname = down\ntype = layers\n"
        "containers = clickprompt\nlayers =\n    modality\n    readers\n"
    )
    done = lint(config, tmp_path, tmp_path)
    assert done.returncode == 1
    assert "clickprompt.readers -> clickprompt.modality" in done.stdout
