"""Samples -> the two views: local ids of an embedding table, and pieces of text.

Letters: F fields, P pieces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np

from clickprompt.modality.samples import split_rows
from clickprompt.modality.vocabulary import Column, Vocabulary, cell_text
from clickprompt.parameters import DataParameters, FieldParameters


@dataclass(frozen=True)
class IdView:
    """The ID view (section 1 of docs/method.md).

    - ``ids`` (rows, F) int32: local ids; for a bag field the number of the combination;
    - ``bags``: field position -> (combinations, M) int32 local member ids, padded with -1;
    - ``labels`` (rows,) int8, ``row_numbers`` (rows,) int64;
    - ``user_train_rows``, ``item_train_rows`` (rows,) int32: number of train rows of the row's
      user (item), counted on the raw column; 0 = not in train;
    - ``split_rows``: rows of train, valid and test, which follow each other in this order.
    """

    vocabularies: tuple[Vocabulary, ...]
    ids: np.ndarray
    bags: dict[int, np.ndarray]
    labels: np.ndarray
    row_numbers: np.ndarray
    user_train_rows: np.ndarray
    item_train_rows: np.ndarray
    split_rows: tuple[int, int, int]

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Embedding rows of every field, row 0 included."""
        return tuple(vocabulary.size for vocabulary in self.vocabularies)


@dataclass(frozen=True)
class TextView:
    """The text view: distinct pieces, and which of them each row is made of.

    - ``pieces`` (P,): texts like "genre is Drama."; from the second field on they start with
      the space that joins them to the piece before;
    - ``piece_ids`` (rows, F) int32;
    - ``train_rows``: the first rows, of the train split.
    """

    pieces: tuple[str, ...]
    piece_ids: np.ndarray
    train_rows: int

    def text(self, row: int) -> str:
        """The whole sentence of one row."""
        return "".join(self.pieces[piece] for piece in self.piece_ids[row])


def build_id_view(samples: Any, data: DataParameters) -> IdView:
    """Fit the vocabularies on the train rows and look every row up.

    Args:
        samples: what ``label_and_split`` returned.
        data: fields, user and item.

    Raises:
        ValueError: a value of a numeric field is not a finite number.
    """
    counts = split_rows(_numbers(samples, "split"))
    labels = _numbers(samples, "label").astype(np.int8)
    ids = np.empty((len(labels), len(data.fields)), dtype=np.int32)
    vocabularies: list[Vocabulary] = []
    bags: dict[int, np.ndarray] = {}
    for position, field in enumerate(data.fields):
        column = Column.read(samples, field.column)
        vocabulary = Vocabulary.fit(field, column, counts[0])
        found = vocabulary.ids(column.values)
        if vocabulary.is_bag:
            bags[position], combination = np.unique(found, axis=0, return_inverse=True)
            found = combination.reshape(-1).astype(np.int32)
        ids[:, position] = found[column.codes]
        vocabularies.append(vocabulary)
    return IdView(
        vocabularies=tuple(vocabularies),
        ids=ids,
        bags=bags,
        labels=labels,
        row_numbers=_numbers(samples, "row").astype(np.int64),
        user_train_rows=_train_rows(samples, data.user, counts[0]),
        item_train_rows=_train_rows(samples, data.item, counts[0]),
        split_rows=counts,
    )


def build_text_view(samples: Any, data: DataParameters) -> TextView:
    """Write every distinct (field, value) as a piece of text.

    Missing values are written with ``data.missing_word``.
    """
    train = split_rows(_numbers(samples, "split"))[0]
    pieces: list[str] = []
    piece_ids: np.ndarray | None = None
    for position, field in enumerate(data.fields):
        column = Column.read(samples, field.column)
        numbers: dict[str, int] = {}
        of_value = np.empty(len(column.values), dtype=np.int32)
        for order in np.argsort([value or "" for value in column.values], kind="stable"):
            text = piece_text(column.values[order], field, data, first=position == 0)
            of_value[order] = numbers.setdefault(text, len(pieces) + len(numbers))
        pieces.extend(numbers)
        if piece_ids is None:
            piece_ids = np.empty((len(column.codes), len(data.fields)), dtype=np.int32)
        piece_ids[:, position] = of_value[column.codes]
    assert piece_ids is not None
    return TextView(tuple(pieces), piece_ids, train)


def piece_text(
    cell: str | None, field: FieldParameters, data: DataParameters, *, first: bool
) -> str:
    """The text of one cell: the template, filled in, with a space in front unless it is first."""
    # NOTE[DIFF]: the reference writes missing values as "nan" or "None"; here data.missing_word
    text = cell_text(cell, field)
    value = data.missing_word if text is None or not text.strip() else text
    parts = {"{field}": field.name, "{value}": value}
    # not str.format: other braces of the template are the user's own text
    filled = re.sub(r"\{field\}|\{value\}", lambda found: parts[found[0]], data.template)
    return filled if first else " " + filled


def _train_rows(samples: Any, name: str, train: int) -> np.ndarray:
    column = Column.read(samples, name)
    return column.train_counts(train)[column.codes].astype(np.int32)


def _numbers(samples: Any, name: str) -> np.ndarray:
    frame: Any = nw.from_native(samples).select(name)
    if isinstance(frame, nw.LazyFrame):
        frame = frame.collect()
    return np.asarray(frame[name].to_numpy())
