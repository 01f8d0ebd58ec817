"""The direction of imports is a promise of the architecture: ``.importlinter`` says it in full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.end_to_end.project import REPOSITORY


def test_imports_go_downwards_only():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout
