"""The planted signal is there, is known, and is in the titles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import hstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from clickprompt.synthetic import expected_auc, write_synthetic_ratings


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_synthetic_ratings(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def table(written) -> pd.DataFrame:
    ratings, movies = (pd.read_csv(written.files[n]) for n in ("ratings.csv", "movies.csv"))
    table = ratings.merge(movies, on="movieId", how="left")
    return table.assign(word=table["title"].str.extract(r"(\w+) \(\d{4}\)$")[0])


def _fitted(table, labels, columns, train):
    """Test probabilities of a logistic regression on one-hot columns."""
    parts = [
        OneHotEncoder(handle_unknown="ignore").fit(table.loc[train, [name]]) for name in columns
    ]
    encoded = hstack(
        [part.transform(table[[name]]) for part, name in zip(parts, columns, strict=True)]
    ).tocsr()
    model = LogisticRegression(C=1.0, max_iter=500).fit(encoded[train], labels[train])
    return model.predict_proba(encoded[~train])[:, 1]


def test_expected_auc_is_the_sum_over_all_pairs():
    generator = np.random.default_rng(0)
    p, s = generator.random(40), generator.integers(0, 6, 40)
    won = total = 0.0
    for i in range(40):
        for j in range(40):
            pair = p[i] * (1 - p[j])
            total += pair
            won += pair * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
    assert expected_auc(s, p) == pytest.approx(won / total, rel=1e-12)


def test_expected_auc_of_uniform_probabilities_has_a_closed_form():
    # p uniform on 0..1: positives have the density 2p, negatives 2(1 - p); AUC = 5/6.
    p = (np.arange(100_000) + 0.5) / 100_000
    assert expected_auc(p, p) == pytest.approx(5 / 6, abs=1e-5)


def test_files_have_the_published_form(written):
    ratings = written.files["ratings.csv"].read_bytes()
    movies = written.files["movies.csv"].read_bytes()
    assert ratings.startswith(b"userId,movieId,rating,timestamp\r\n")
    assert movies.startswith(b"movieId,title,genres\r\n")
    assert ratings.count(b"\r\n") == 6001
    assert movies.count(b"\r\n") == 401


def test_ratings_say_the_labels_and_pairs_and_titles_are_unique(written, table):
    assert len(table) == len(written.labels) == len(written.probabilities) == 6000
    assert (table["rating"].ge(4) == written.labels.astype(bool)).all()
    assert not table["rating"].between(2.6, 3.9).any()
    assert not table.duplicated(["userId", "movieId"]).any()
    assert table["timestamp"].is_unique
    assert table.groupby("title")["movieId"].nunique().max() == 1
    assert table.notna().all(axis=None)


def test_labels_follow_the_probabilities(written):
    for low in np.arange(0, 1, 0.1):
        rows = (written.probabilities >= low) & (written.probabilities < low + 0.1)
        gap = written.labels[rows].mean() - written.probabilities[rows].mean()
        assert abs(gap) < 4 * 0.5 / np.sqrt(rows.sum())


def test_the_known_bests_are_what_the_true_probabilities_reach(written):
    found = roc_auc_score(written.labels, written.probabilities)
    assert found == pytest.approx(written.best_auc, abs=0.015)
    found = log_loss(written.labels, written.probabilities)
    assert found == pytest.approx(written.best_log_loss, abs=0.015)


def test_who_reads_the_words_comes_near_the_best_and_ids_of_rare_movies_do_not(written, table):
    train = np.random.default_rng(0).random(len(table)) < 0.8
    labels = written.labels
    seen = table["movieId"].map(table.loc[train, "movieId"].value_counts()).fillna(0).to_numpy()
    words = _fitted(table, labels, ["userId", "genres", "word"], train)
    ids = _fitted(table, labels, ["userId", "genres", "movieId", "title"], train)
    assert roc_auc_score(labels[~train], words) > written.best_auc - 0.03
    rare = seen[~train] <= 5
    assert rare.sum() > 100
    gap = roc_auc_score(labels[~train][rare], words[rare]) - roc_auc_score(
        labels[~train][rare], ids[rare]
    )
    assert gap > 0.05


def test_without_titles_the_best_is_clearly_lower_and_cannot_be_beaten(written, table):
    assert 0.6 < written.best_auc_without_titles < written.best_auc - 0.08
    train = np.random.default_rng(0).random(len(table)) < 0.8
    found = roc_auc_score(
        written.labels[~train], _fitted(table, written.labels, ["userId", "genres"], train)
    )
    assert found < written.best_auc_without_titles + 0.02


def test_no_word_effect_means_that_titles_add_nothing(tmp_path):
    written = write_synthetic_ratings(tmp_path, word_strength=0)
    assert written.best_auc_without_titles == pytest.approx(written.best_auc)


def test_same_seed_same_files_other_seed_other_files(tmp_path):
    sizes = {"users": 20, "movies": 30, "ratings": 100}
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written = write_synthetic_ratings(tmp_path / name, **sizes, seed=seed)
        contents.append([path.read_bytes() for path in written.files.values()])
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0]


@pytest.mark.parametrize("movies", [1, 3, 500])
def test_any_number_of_movies_has_unique_titles(tmp_path, movies):
    written = write_synthetic_ratings(tmp_path, users=5, movies=movies, ratings=5)
    titles = pd.read_csv(written.files["movies.csv"])["title"].str.replace(
        r" \(\d+\)", "", regex=True
    )
    assert len(titles) == titles.nunique() == movies
    assert 0 <= written.best_auc_without_titles <= 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"movies": 0}, "movies must be at least 1, got 0"),
        ({"ratings": 0}, "ratings must be at least 1, got 0"),
        ({"users": 2, "movies": 3, "ratings": 7}, r"at most users \* movies = 6, got 7"),
    ],
)
def test_impossible_sizes_are_named(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        write_synthetic_ratings(tmp_path, **sizes)
