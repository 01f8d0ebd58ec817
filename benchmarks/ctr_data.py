"""A click table of MovieLens-1M's size: 8 fields, long tails, a planted signal, split 8:1:1.

Users and movies have MovieLens-1M's numbers, ages, occupations and genres; activity and popularity
are gamma distributed, which gives its medians and maxima. The logit of a click is a sum of effects
of user, movie, genre and age group, and of an inner product of hidden user and movie vectors,
which a CTR model can learn from the ids:

    logit = b + u_user + m_movie + g_genre,age + <p_user, q_movie>

A movie has a title of its own, a zip code belongs to few users, as in the published files. A
user may meet a movie twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from benchmarks.scale_data import WORDS

ROWS = 739_012  # MovieLens-1M without the ratings of 3
USERS, MOVIES, ZIPS, OCCUPATIONS = 6_040, 3_706, 3_439, 21
AGES = (1, 18, 25, 35, 45, 50, 56)
SHARES_OF_AGES = (0.04, 0.18, 0.35, 0.2, 0.09, 0.08, 0.06)
GENRES = (
    "Drama", "Comedy", "Action", "Thriller", "Romance", "Adventure", "Sci-Fi", "Crime", "War",
    "Children's", "Animation", "Horror", "Musical", "Mystery", "Fantasy", "Western",
    "Documentary", "Film-Noir",
)  # fmt: skip

# column -> human name, in the order of the text view
FIELDS = {
    "user_id": "user id",
    "gender": "gender",
    "age": "age",
    "occupation": "occupation",
    "zip": "zip code",
    "movie_id": "movie id",
    "title": "movie title",
    "genre": "genre",
}
SPLITS = ("train", "valid", "test")
NAME = "clicks"


def clicks(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """The table: the fields as text, ``label`` 0 or 1 (78 % clicks) and ``split``.

    Raises:
        ValueError: fewer than 10 rows, which cannot be split 8:1:1.
    """
    if rows < 10:
        raise ValueError(f"rows must be at least 10, got {rows}")
    random = np.random.Generator(np.random.Philox(seed))
    # of users and movies, so that tables of any size have the same ones
    gender = random.choice(2, USERS, p=(0.28, 0.72))
    age = random.choice(len(AGES), USERS, p=SHARES_OF_AGES)
    occupation = random.choice(OCCUPATIONS, USERS)
    zips = np.concatenate([np.arange(ZIPS), random.integers(0, ZIPS, USERS - ZIPS)])
    genre = np.minimum(random.geometric(0.22, MOVIES) - 1, len(GENRES) - 1)
    activity = random.gamma(0.7, size=USERS) + 0.05
    popularity = random.gamma(0.5, size=MOVIES) + 0.01
    user_effect, movie_effect = random.normal(0, 0.6, USERS), random.normal(0, 0.7, MOVIES)
    taste = random.normal(0, 0.35, (len(GENRES), len(AGES)))
    user_vectors = random.normal(0, 0.6, (USERS, 4))
    movie_vectors = random.normal(0, 0.6, (MOVIES, 4))

    user = random.choice(USERS, rows, p=activity / activity.sum())
    movie = random.choice(MOVIES, rows, p=popularity / popularity.sum())
    logit = 1.65 + user_effect[user] + movie_effect[movie] + taste[genre[movie], age[user]]
    logit += (user_vectors[user] * movie_vectors[movie]).sum(axis=1)
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    split = np.repeat([0, 1, 2], [rows - 2 * (rows // 10), rows // 10, rows // 10])
    random.shuffle(split)
    columns = {
        "user_id": _texts(np.arange(1, USERS + 1), user),
        "gender": pa.array(["F", "M"]).take(pa.array(gender[user])),
        "age": _texts(np.array(AGES), age[user]),
        "occupation": _texts(np.arange(OCCUPATIONS), occupation[user]),
        "zip": _texts(10_000 + 23 * np.arange(ZIPS), zips[user]),
        "movie_id": _texts(np.arange(1, MOVIES + 1), movie),
        "title": pa.array(_titles()).take(pa.array(movie)),
        "genre": pa.array(GENRES).take(pa.array(genre[movie])),
        "label": pa.array(label),
        "split": pa.array(SPLITS).take(pa.array(split)),
    }
    return pa.table(columns)


def write_files(folder: Path, rows: int = ROWS) -> dict[str, Any]:
    """Write the table once in the raw format of each side, where it is missing.

    - ``clicks.csv``: all rows, for ours and DeepCTR-Torch, which has no format of its own;
    - ``train.csv``, ``valid.csv``, ``test.csv``: the same rows cut, as FuxiCTR asks for;
    - ``clicks.train.inter``, ...: the same with RecBole's typed header and tabs.

    Returns:
        ``rows`` and ``split_rows``.
    """
    done = folder / "written.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        table = clicks(rows)
        pa_csv.write_csv(table, folder / f"{NAME}.csv")
        counts = []
        for name in SPLITS:
            part = table.filter(pc.equal(table["split"], name)).drop_columns(["split"])
            pa_csv.write_csv(part, folder / f"{name}.csv")
            _write_atomic(part, folder / f"{NAME}.{name}.inter")
            counts.append(len(part))
        done.write_text(json.dumps({"rows": rows, "split_rows": counts}), encoding="utf-8")
    written: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return written


def data_parameters() -> Any:
    """How ours reads ``clicks.csv``, as ``DataParameters``."""
    from clickprompt.parameters import DataParameters

    settings: Mapping[str, Any] = {
        "reader": "table",
        "user": "user_id",
        "item": "movie_id",
        "time": None,
        "label": {"column": "label", "positive_from": 1, "negative_to": 0},
        "split": {"by": "column", "column": "split"},
        "fields": [{"column": column, "name": name} for column, name in FIELDS.items()],
    }
    return DataParameters.model_validate(settings)


def _titles() -> list[str]:
    """A title of two or three words and a year for each movie, all different."""
    names = [word.capitalize() for word in WORDS]
    count = len(names)
    return [
        f"{names[number % count]} {names[number // count * 7 % count]} ({1930 + number % 71})"
        for number in range(MOVIES)
    ]


def _texts(values: np.ndarray, chosen: np.ndarray) -> pa.Array:
    return pa.array([str(value) for value in values]).take(pa.array(chosen))


def _write_atomic(part: pa.Table, path: Path) -> None:
    kinds = {name: "token" if name in FIELDS else "float" for name in part.schema.names}
    header = "\t".join(f"{name}:{kind}" for name, kind in kinds.items())
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        file.write(f"{header}\n".encode())
        pa_csv.write_csv(part, file, options)
