"""The studies of ``conf`` on the embedded data: train what is left, keep what came out.

Records and predictions of the cells lie in ``benchmarks/results/studies``, so that every number can
be looked at again without training; the summaries in ``study_<name>.json`` make the results page.

    python -m benchmarks.studies [NAME ...] [--processes 1] [--seeds 0,1]
        [--only AXIS=VALUE,VALUE]

``--seeds`` and ``--only``, as of ``kedro study``, say what is trained now; the summary has every
row of the study, from the cells that are finished.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.project import REPOSITORY
from benchmarks.results import write_result

# long_tail reads what compatibility has trained.
STUDIES = (
    "performance",
    "prompt_strategy",
    "knowledge_fusion",
    "prompt_count",
    "compatibility",
    "long_tail",
)
FOLDER = "benchmarks/results/studies"


def main() -> None:
    """Run from the command line; the exit code is that of the last study that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=STUDIES)
    parser.add_argument("--processes", type=int, default=1, help="cells at the same time")
    parser.add_argument("--seeds", help="only these of a study's seeds, such as 0,1")
    parser.add_argument("--only", action="append", default=[], metavar="AXIS=VALUE[,VALUE]")
    given = parser.parse_args()
    options = [f"--processes={given.processes}", f"--params=studies.folder={FOLDER}"]
    if given.seeds is not None:
        options.append(f"--seeds={given.seeds}")
    options += [f"--only={chosen}" for chosen in given.only]
    code = 0
    for name in given.names:
        done = subprocess.run(
            [sys.executable, "-m", "kedro", "study", name, *options], cwd=REPOSITORY, check=False
        )
        code = done.returncode or code
        if done.returncode in (0, 1):  # a failed cell does not hold the others back
            print(f"written: {write_result(f'study_{name}', _summary(name))}")
    sys.exit(code)


def _summary(name: str) -> dict[str, Any]:
    """As the report has it, without where the runs are tracked on this machine."""
    path = REPOSITORY / "data" / "08_reporting" / "studies" / name / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for row in summary["rows"]:
        for cell in row["cells"]:
            del cell["run"]
    return summary


if __name__ == "__main__":
    main()
