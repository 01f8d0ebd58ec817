"""Synthetic ratings with a planted signal, whose best reachable AUC is known.

The files look like MovieLens latest-small (``ratings.csv``, ``movies.csv``). The probability of a
positive rating is

    p(user, movie) = sigmoid(user effect + genre effect + word effect),

where the word is the last word of the movie's title, shared by many movies. Most movies have few
ratings, so that their ids teach little; who reads the titles learns the word's effect from all
movies that share it. That is what a language model can add to a CTR model.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Plain words that a tokenizer keeps whole.
WORDS = (
    "Dragon", "Garden", "Winter", "Castle", "River", "Engine",
    "Mirror", "Ocean", "Desert", "Circus", "Bridge", "Forest",
)  # fmt: skip
ADJECTIVES = (
    "Silent", "Golden", "Broken", "Hidden", "Distant", "Crimson", "Frozen", "Lonely",
    "Ancient", "Burning", "Endless", "Secret", "Gentle", "Hollow", "Restless", "Silver",
)  # fmt: skip
GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Western")
POSITIVE_RATINGS = (4.0, 4.5, 5.0)
NEGATIVE_RATINGS = (0.5, 1.0, 1.5, 2.0, 2.5)


@dataclass(frozen=True)
class SyntheticRatings:
    """What was written, and what a model can reach on it.

    Attributes:
        files: file name -> path, as a raw files dataset gives them.
        probabilities: (ratings,) true probability of a positive rating, in the order of
            ``ratings.csv``.
        labels: (ratings,) 1 where the rating is positive.
        best_auc: AUC of the true probabilities, which no model exceeds on average.
        best_log_loss: LogLoss of the true probabilities.
        best_auc_without_titles: AUC of the best model that knows user and genre only, which is
            all that ids tell about a movie that was never seen.
    """

    files: dict[str, Path]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int8]
    best_auc: float
    best_log_loss: float
    best_auc_without_titles: float


def write_synthetic_ratings(
    folder: Path | str,
    *,
    users: int = 200,
    movies: int = 400,
    ratings: int = 6000,
    user_strength: float = 0.7,
    genre_strength: float = 0.7,
    word_strength: float = 2.0,
    seed: int = 0,
) -> SyntheticRatings:
    """Write ``ratings.csv`` and ``movies.csv`` with a planted signal.

    The popularity of the movies falls as 1 / rank; nobody rates a movie twice.

    Args:
        folder: is made if need be; files of these names are overwritten.
        users: number of users.
        movies: number of movies, all of them in ``movies.csv``.
        ratings: number of rows of ``ratings.csv``.
        user_strength: deviation of the user effects.
        genre_strength: largest genre effect; they are spread evenly from minus to plus it.
        word_strength: largest word effect, spread likewise.
        seed: of all that is drawn.

    Raises:
        ValueError: sizes below 1, or more ratings than there are pairs.
    """
    for name, size in (("users", users), ("movies", movies), ("ratings", ratings)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if ratings > users * movies:
        raise ValueError(
            f"ratings must be at most users * movies = {users * movies}, got {ratings}"
        )
    generator = np.random.default_rng(seed)
    word_M = generator.permutation(np.arange(movies) % len(WORDS))
    genre_M = generator.permutation(np.arange(movies) % len(GENRES))
    word_effect = word_strength * generator.permutation(np.linspace(-1, 1, len(WORDS)))
    genre_effect = genre_strength * generator.permutation(np.linspace(-1, 1, len(GENRES)))
    user_effect = generator.normal(0, user_strength, users)
    popularity_M = 1 / (1 + generator.permutation(movies))

    logit_UM = user_effect[:, None] + (genre_effect[genre_M] + word_effect[word_M])[None, :]
    probability_UM = 1 / (1 + np.exp(-logit_UM))
    # Gumbel's trick: the largest keys are a draw without replacement, weighted by popularity.
    keys = np.log(popularity_M) + generator.gumbel(size=(users, movies))
    drawn = np.sort(np.argpartition(-keys, ratings - 1, axis=None)[:ratings])
    user, movie = np.divmod(drawn, movies)
    probabilities = probability_UM[user, movie]
    labels = (generator.random(ratings) < probabilities).astype(np.int8)

    # Without titles the best score is the mean probability over the movies of the genre, each
    # weighted by the probability that its key passes the threshold of this draw.
    threshold = keys.flat[drawn].min()
    drawn_M = -np.expm1(-popularity_M * np.exp(-threshold))
    share_MG = (genre_M[:, None] == np.arange(len(GENRES))) * drawn_M[:, None]
    mean_UG = probability_UM @ (share_MG / np.maximum(share_MG.sum(axis=0), 1e-300))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("ratings.csv", "movies.csv")}
    _write(
        files["movies.csv"],
        ("movieId", "title", "genres"),
        zip(
            range(1, movies + 1),
            _titles(word_M, generator.integers(1950, 2020, movies)),
            (GENRES[genre] for genre in genre_M),
            strict=True,
        ),
    )
    stars = np.where(
        labels == 1,
        generator.choice(POSITIVE_RATINGS, ratings),
        generator.choice(NEGATIVE_RATINGS, ratings),
    )
    times = 1_000_000_000 + generator.permutation(ratings) * 60
    _write(
        files["ratings.csv"],
        ("userId", "movieId", "rating", "timestamp"),
        zip((user + 1).tolist(), (movie + 1).tolist(), stars.tolist(), times.tolist(), strict=True),
    )
    return SyntheticRatings(
        files=files,
        probabilities=probabilities,
        labels=labels,
        best_auc=expected_auc(probabilities, probabilities),
        best_log_loss=_entropy(probabilities),
        best_auc_without_titles=expected_auc(mean_UG[user, genre_M[movie]], probabilities),
    )


def expected_auc(scores: ArrayLike, probabilities: ArrayLike) -> float:
    """AUC of scores when each row is positive with its own known probability.

    The row counts as a positive of weight p and a negative of weight 1 - p, hence with
    s the scores

        sum_ij p_i (1 - p_j) ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i p_i * sum_j (1 - p_j)).

    With the probabilities themselves as scores it is the best AUC that any model can reach.

    Args:
        scores: (rows,).
        probabilities: (rows,) true probability of label 1.
    """
    s, p = np.asarray(scores, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(s)
    starts = np.flatnonzero(np.append(True, np.diff(s[order]) > 0))
    positive = np.add.reduceat(p[order], starts)
    negative = np.add.reduceat(1 - p[order], starts)
    below = np.cumsum(negative) - negative
    won = positive @ (below + negative / 2)
    return float(won / (positive.sum() * negative.sum()))


def _entropy(p: NDArray[np.float64]) -> float:
    """Mean binary entropy in nats: the LogLoss of true probabilities on average."""
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())


def _titles(word_M: NDArray[np.int64], year_M: NDArray[np.int64]) -> list[str]:
    """``Adjective Word (year)``, numbered as sequels once a word has used all adjectives."""
    titles, used = [], dict.fromkeys(range(len(WORDS)), 0)
    for word, year in zip(word_M.tolist(), year_M.tolist(), strict=True):
        sequel, adjective = divmod(used[word], len(ADJECTIVES))
        used[word] += 1
        number = f"Part {sequel + 1} of " if sequel else ""
        titles.append(f"{number}{ADJECTIVES[adjective]} {WORDS[word]} ({year})")
    return titles


def _write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """CSV with CRLF line ends, as published."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows(rows)
