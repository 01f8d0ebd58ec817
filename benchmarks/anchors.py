"""Published anchors: our backbones against the figures of the AutoInt paper on MovieLens-1M.

``conf/movielens_1m_anchors`` holds the setting (random 8:1:1, rating 3 dropped, the paper's seven
fields). Every backbone is tuned and trained as in ``benchmarks.backbones``; each with a published
figure must be within 0.004 AUC of it, or better: the exit code is 1 if one is not.

The files of MovieLens-1M are not ours to ship; ``--raw`` names their folder.

    python -m benchmarks.anchors [--models fm autoint] [--seeds 5] [--raw data/01_raw/movielens_1m]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.backbones import Grid, add_options, compare
from benchmarks.project import REPOSITORY, base_parameters, catalog_entry, convert_files
from benchmarks.report_backbones import band_table, outside_the_band

ENVIRONMENT = "movielens_1m_anchors"

# Wide, since the data are not at hand to try it on; the results page names choices at an edge.
GRID = Grid(learning_rates=(1e-3, 3e-3, 1e-2), weight_decays=(1e-6, 1e-5, 1e-4))

WITHOUT_FILES = (
    "Without these files, `python -m benchmarks.backbones` compares all backbones on the "
    "embedded data."
)


def raw_files(folder: Path | None = None) -> dict[str, Path]:
    """The published files: name -> path.

    Args:
        folder: where they lie; None: as the catalog says.

    Raises:
        ValueError: files are missing; it names them, the folder, and where they are published.
    """
    from kedro.io import DatasetError

    from clickprompt.datasets import RawFilesDataset

    entry = catalog_entry(ENVIRONMENT, "raw_files")
    dataset = RawFilesDataset(
        path=str(folder or REPOSITORY / entry["path"]),
        files=entry["files"],
        published_at=entry["published_at"],
    )
    try:
        return dataset.load()
    except DatasetError as error:
        raise ValueError(f"{error}. {WITHOUT_FILES}") from None


def check_rows(found: int, parameters: Any) -> None:
    """Hold the number of labelled rows against the published one.

    Raises:
        ValueError: it is another: these are not the published files.
    """
    counts = parameters.data.expected_counts
    if counts is not None and counts.labelled not in (None, found):
        raise ValueError(
            f"labelled rows of MovieLens-1M must be {counts.labelled:,}, got {found:,}: these are "
            "not the published files, whole and unchanged"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line and write ``benchmarks/results/anchors.json``.

    Exits with 1 where files are missing or others, or a backbone is outside of the band.
    """
    from benchmarks.results import write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--raw", type=Path, help="folder of the published files")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    parameters = base_parameters(ENVIRONMENT)
    folder = REPOSITORY / "data" / "05_model_input" / ENVIRONMENT
    try:
        model_input = convert_files(raw_files(given.raw), folder, parameters)
        check_rows(len(model_input.labels), parameters)
    except ValueError as error:
        sys.exit(str(error))
    found = compare(
        parameters,
        model_input,
        models=given.models,
        grid=GRID,
        seeds=given.seeds,
        processes=given.processes,
    )
    result: Mapping[str, Any] = {
        "environment": ENVIRONMENT,
        **found,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(band_table(result))
    print(f"written: {write_result('anchors', dict(result))}")
    if outside := outside_the_band(result):
        sys.exit(f"outside of the band: {', '.join(outside)}")


if __name__ == "__main__":
    main()
