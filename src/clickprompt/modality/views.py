"""Field codes -> the two views: local ids of an embedding table, and pieces of text.

Both are tables over the distinct values of each field; a row's ids and pieces are looked up there
by its codes, so that a view is small however many rows there are.

Letters: C columns, F fields, P pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clickprompt.modality.columns import FieldCodes
from clickprompt.modality.vocabulary import Vocabulary, cell_text
from clickprompt.parameters import DataParameters, FieldParameters


@dataclass(frozen=True)
class IdView:
    """The ID view (section 1 of docs/method.md).

    - ``tables``: for each field (values,) int32, the local id of each distinct value; for a bag
      field the number of its combination;
    - ``bags``: field position -> (combinations, M) int32 local member ids, padded with -1;
    - ``user``, ``item``: column of the codes and (values,) int32 train rows of each user (item);
      None where the data has none.
    """

    vocabularies: tuple[Vocabulary, ...]
    tables: tuple[np.ndarray, ...]
    bags: dict[int, np.ndarray]
    user: tuple[int, np.ndarray] | None
    item: tuple[int, np.ndarray] | None

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Embedding rows of every field, row 0 included."""
        return tuple(vocabulary.size for vocabulary in self.vocabularies)

    def ids(self, codes: np.ndarray) -> np.ndarray:
        """Local ids (n, F) int32 of rows with these codes (n, C)."""
        return self._lookup(codes)

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.tables)

    def user_train_rows(self, codes: np.ndarray) -> np.ndarray:
        """Train rows of each row's user, counted on the raw column; 0 = not in train, -1 = no user.

        Args:
            codes: (n, C).

        Returns:
            (n,) int32.
        """
        return _train_rows(self.user, codes)

    def item_train_rows(self, codes: np.ndarray) -> np.ndarray:
        """The same for the item."""
        return _train_rows(self.item, codes)


@dataclass(frozen=True)
class TextView:
    """The text view: distinct pieces, and which of them each value is written as.

    - ``pieces`` (P,): texts like "genre is Drama."; from the second field on they start with
      the space that joins them to the piece before;
    - ``tables``: for each field (values,) int32, the piece of each distinct value;
    - ``in_train`` (P,) bool: whether a train row has the piece.
    """

    pieces: tuple[str, ...]
    tables: tuple[np.ndarray, ...]
    in_train: np.ndarray

    def piece_ids(self, codes: np.ndarray) -> np.ndarray:
        """Pieces (n, F) int32 of rows with these codes (n, C)."""
        return self._lookup(codes)

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.tables)

    def texts(self, codes: np.ndarray) -> list[str]:
        """The whole sentences of rows with these codes (n, C)."""
        return ["".join(self.pieces[p] for p in row) for row in self.piece_ids(codes).tolist()]


def build_id_view(field_codes: FieldCodes, data: DataParameters) -> IdView:
    """Fit the vocabularies on the train rows and look every distinct value up.

    Args:
        field_codes: what ``encode_fields`` returned.
        data: fields, user and item.

    Raises:
        ValueError: a value of a numeric field is not a finite number.
    """
    fields = list(zip(data.fields, field_codes.columns, strict=False))
    vocabularies = tuple(Vocabulary.fit(field, column) for field, column in fields)
    tables, bags = id_tables(vocabularies, field_codes)

    def counted(name: str | None) -> tuple[int, np.ndarray] | None:
        if name is None:
            return None
        position = field_codes.position(name)
        return position, field_codes.columns[position].train_counts.astype(np.int32)

    return IdView(vocabularies, tables, bags, counted(data.user), counted(data.item))


def id_tables(
    vocabularies: Sequence[Vocabulary], field_codes: FieldCodes
) -> tuple[tuple[np.ndarray, ...], dict[int, np.ndarray]]:
    """``tables`` and ``bags`` of an `IdView`: every distinct value looked up.

    Args:
        vocabularies: of the fields, fitted.
        field_codes: their distinct values.

    Raises:
        ValueError: a value of a numeric field is not a finite number.
    """
    tables: list[np.ndarray] = []
    bags: dict[int, np.ndarray] = {}
    for position, vocabulary in enumerate(vocabularies):
        found = vocabulary.ids(field_codes.columns[position].values)
        if vocabulary.is_bag:
            bags[position], combination = np.unique(found, axis=0, return_inverse=True)
            found = combination.reshape(-1).astype(np.int32)
        tables.append(found)
    return tuple(tables), bags


def build_text_view(field_codes: FieldCodes, data: DataParameters) -> TextView:
    """Write every distinct (field, value) as a piece of text.

    Missing values are written with ``data.missing_word``.
    """
    pieces: list[str] = []
    tables: list[np.ndarray] = []
    in_train: list[np.ndarray] = []
    for position, field in enumerate(data.fields):
        column = field_codes.columns[position]
        numbers: dict[str, int] = {}
        table = np.empty(len(column.values), dtype=np.int32)
        write = _piece_writer(field, data, first=position == 0)
        # in the order of the values: the same pieces for any order of the rows
        known = sorted((v, code) for code, v in enumerate(column.values) if v is not None)
        missing = [(None, code) for code, v in enumerate(column.values) if v is None]
        ordered = [*missing, *known]
        first_piece = len(pieces)
        table[[code for _, code in ordered]] = [
            numbers.setdefault(write(value), first_piece + len(numbers)) for value, _ in ordered
        ]
        used = np.zeros(len(numbers), dtype=bool)
        used[table[column.train_counts > 0] - first_piece] = True
        pieces.extend(numbers)
        tables.append(table)
        in_train.append(used)
    return TextView(tuple(pieces), tuple(tables), np.concatenate(in_train))


def piece_text(
    cell: str | None, field: FieldParameters, data: DataParameters, *, first: bool
) -> str:
    """The text of one cell: the template, filled in, with a space in front unless it is first."""
    return _piece_writer(field, data, first=first)(cell)


def _piece_writer(
    field: FieldParameters, data: DataParameters, *, first: bool
) -> Callable[[str | None], str]:
    """``piece_text`` of one field, with the template taken apart once."""
    # not str.format: other braces of the template are the user's own text
    before, *after = (
        part.replace("{field}", field.name) for part in data.template.split("{value}")
    )
    around = (before if first else " " + before, *after)

    # NOTE[DIFF]: the reference writes missing values as "nan" or "None"; here data.missing_word
    def write(cell: str | None) -> str:
        text = cell_text(cell, field)
        value = data.missing_word if text is None or not text.strip() else text
        return value.join(around)

    return write


class Lookup:
    """One table of numbers for each column, looked up in all columns at a time.

    A single gather from the tables in a row takes a third of the time of one gather for each.

    Args:
        tables: for each column (values,) int32.
    """

    def __init__(self, tables: Sequence[np.ndarray]) -> None:
        self._table = np.concatenate([np.zeros(0, np.int32), *tables])
        self._starts = np.cumsum([0, *map(len, tables)])[:-1]

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Numbers (n, F) of codes (n, C), F of them looked up; C is at least F."""
        return self._table.take(codes[:, : len(self._starts)] + self._starts)


def _train_rows(column: tuple[int, np.ndarray] | None, codes: np.ndarray) -> np.ndarray:
    if column is None:
        return np.full(len(codes), -1, dtype=np.int32)
    position, counts = column
    return counts[codes[:, position]]
