"""Raw rows that were in no data set -> the two views, with vocabularies that were fitted before.

The steps are those of the data set's own conversion: cells to text and numbers as the reader
``table`` does it, distinct values, ids by `id_tables`, pieces by `build_text_view`, tokens by
`token_table`. What is different: labels, filters and splits play no part, a column may be missing,
and a row that cannot be read is named, not dropped.

Letters: F fields, P pieces.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clickprompt.modality.columns import Column, FieldCodes
from clickprompt.modality.encoder import ColumnEncoder, as_text
from clickprompt.modality.tokens import PieceTokenizer, token_table
from clickprompt.modality.views import IdView, TextView, build_text_view, id_tables
from clickprompt.modality.vocabulary import OUT_OF_VOCABULARY, Vocabulary
from clickprompt.parameters import DataParameters, FieldParameters, TableParameters
from clickprompt.readers.table.cells import (
    TIME_PARTS,
    number_cells,
    text_cells,
    time_cells,
    time_part,
)

CACHED_PIECES = 1 << 20
SHOWN = 80  # characters of a value in a reason


@dataclass(frozen=True)
class RowTexts:
    """The text view of some rows, for a `TextBatcher`.

    - ``pieces`` (rows, F), ``piece_tokens`` (all tokens,), ``piece_offsets`` (P + 1,): as those of
      a `ModelInput`.
    """

    pieces: np.ndarray
    piece_tokens: np.ndarray
    piece_offsets: np.ndarray
    max_tokens: int
    special_tokens: dict[str, int | None]
    tokens_around: int

    def lengths(self) -> np.ndarray:
        """Tokens of every row, special ones included, after truncation; (rows,) int64."""
        counts = np.diff(self.piece_offsets)[self.pieces].sum(axis=1) + self.tokens_around
        return np.minimum(counts, self.max_tokens)


@dataclass(frozen=True)
class ConvertedRows:
    """Raw rows as the models read them.

    - ``ids`` (rows, F) int32: local ids; of a bag field the number of its combination in ``bags``;
    - ``bags``: field position -> (combinations, M) int32 local member ids, padded with -1;
    - ``texts``: None where no tokenizer was given;
    - ``sentences``: the text of a row, by `sentence`;
    - ``reasons`` (rows,): why a row cannot be scored, None where it can; its other cells are
      converted all the same;
    - ``unseen``, ``missing`` (rows, F) bool: out-of-vocabulary ids, and cells without a value.
    """

    ids: np.ndarray
    bags: dict[int, np.ndarray]
    texts: RowTexts | None
    reasons: list[str | None]
    unseen: np.ndarray
    missing: np.ndarray
    view: TextView | None
    codes: np.ndarray

    def sentence(self, row: int) -> str:
        """The whole text of a row, as the template writes it."""
        assert self.view is not None
        return self.view.texts(self.codes[row : row + 1])[0]


class RowConverter:
    """Converts raw rows by fitted vocabularies; safe for several threads.

    Args:
        vocabularies: of the fields in their order.
        data: fields, template, word for missing values, and how cells are written.
        tokenizer: of the text view; None: rows have no texts.
        max_tokens: longest text of a row, special tokens included.
    """

    def __init__(
        self,
        *,
        vocabularies: Sequence[Vocabulary],
        data: DataParameters,
        tokenizer: PieceTokenizer | None,
        max_tokens: int,
    ) -> None:
        self._vocabularies = tuple(vocabularies)
        self._data = data
        self._table = data.table or TableParameters()
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._tokens: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read; one that a table lacks counts as missing values."""
        return tuple(field.column for field in self._data.fields)

    def convert(
        self, rows: pd.DataFrame | Sequence[Any], *, sentences: bool = False
    ) -> ConvertedRows:
        """Both views of some rows.

        Args:
            rows: a table, or one mapping from column to value a row. Columns that no field names
                are not read.
            sentences: make the text view though there is no tokenizer.

        Raises:
            ValueError: the rows have no column that a field names.
        """
        reasons: list[str | None] = [None] * len(rows)
        cells = self._cells(rows, reasons)
        codes = np.zeros((len(rows), len(cells)), dtype=np.int32)
        columns = []
        for position, (field, found) in enumerate(zip(self._data.fields, cells, strict=True)):
            encoder = ColumnEncoder()
            codes[:, position] = encoder.encode(found)
            texts = encoder.texts
            columns.append(Column(field.column, texts, np.zeros(len(texts), dtype=np.int64)))
        field_codes = FieldCodes(
            tuple(columns),
            codes,
            np.zeros(len(rows), dtype=np.int8),
            np.arange(len(rows)),
            (0, 0, len(rows)),
        )
        tables, bags = id_tables(self._vocabularies, field_codes)
        ids = IdView(self._vocabularies, tables, bags, None, None).ids(codes)
        unseen = ids == OUT_OF_VOCABULARY
        for field_number, members in bags.items():
            unseen[:, field_number] = members[ids[:, field_number], 0] == OUT_OF_VOCABULARY
        missing = np.stack([np.asarray(found.is_null()) for found in cells], axis=1)
        view = texts_of_rows = None
        if self._tokenizer is not None or sentences:
            view = build_text_view(field_codes, self._data)
        if self._tokenizer is not None and view is not None:
            texts_of_rows = self._texts(view, codes, self._tokenizer)
        return ConvertedRows(ids, bags, texts_of_rows, reasons, unseen, missing, view, codes)

    def _cells(self, rows: Any, reasons: list[str | None]) -> list[pa.Array]:
        """The cells of each field (rows,), null where missing; notes rows that cannot be read."""
        if isinstance(rows, pd.DataFrame):
            known = set(rows.columns)
            columns: dict[str, Any] = {name: rows[name] for name in self._read if name in known}
        else:
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    reasons[number] = f"a row must map columns to values, got {_shown(row)}"
            maps = [row if isinstance(row, Mapping) else {} for row in rows]
            known = set().union(*maps)
            columns = {
                name: [row.get(name) for row in maps] for name in self._read if name in known
            }
        self._add_time_parts(columns, len(rows))
        if not columns and len(rows) > sum(reason is not None for reason in reasons):
            raise ValueError(
                f"rows must have at least one of the columns {', '.join(self.columns)}, got "
                f"{', '.join(sorted(map(str, known))[:20]) or 'none'}"
            )
        none = pa.nulls(len(rows), pa.large_string())
        return [
            self._column(columns[field.column], field, reasons) if field.column in columns else none
            for field in self._data.fields
        ]

    @property
    def _read(self) -> list[str]:
        time = [] if self._data.time is None else [self._data.time]
        return list(dict.fromkeys([*self.columns, *time]))

    def _add_time_parts(self, columns: dict[str, Any], rows: int) -> None:
        """Hour and weekday of the time where the rows have the time and not its parts."""
        time = self._data.time
        wanted = [f"{time}:{part}" for part in TIME_PARTS]
        wanted = [name for name in wanted if name in self.columns and name not in columns]
        if time in columns and wanted:
            nobody: list[str | None] = [None] * rows
            named = FieldParameters(column=time, name=time, kind="multi_valued")
            cells = self._column(columns[time], named, nobody)
            seconds = time_cells(
                cells, self._table.missing, self._table.time_format, self._table.time_unit
            ).values
            for name in wanted:
                columns[name] = time_part(seconds, name.rpartition(":")[2]).to_pylist()
        if time is not None and time not in self.columns:
            columns.pop(time, None)

    def _column(self, values: Any, field: FieldParameters, reasons: list[str | None]) -> pa.Array:
        numeric = field.kind == "numeric"
        try:
            array = pa.array(values, from_pandas=True)
            if isinstance(array, pa.ChunkedArray):
                array = array.combine_chunks()
            if not numeric:
                return self._text(array, field)
            found = number_cells(array, self._table.missing, self._table.decimal)
        except (ValueError, TypeError, OverflowError, pa.ArrowException):
            # Cells of several types: one after the other, so that a bad one costs its row only.
            texts = [_cell(value, field, self._table, n, reasons) for n, value in enumerate(values)]
            array = pa.array(texts, pa.large_string())
            if not numeric:
                return self._text(array, field)
            found = number_cells(array, self._table.missing, self._table.decimal)
        for number in np.flatnonzero(found.bad):
            _note(reasons, int(number), field, "a finite number", array[int(number)].as_py())
        return found.values

    def _text(self, array: pa.Array, field: FieldParameters) -> pa.Array:
        if pa.types.is_null(array.type):
            return array.cast(pa.large_string())
        if pa.types.is_floating(array.type):  # the encoder writes them as it does in training
            return array
        return text_cells(array, self._table.missing, field.separator).cast(pa.large_string())

    def _texts(self, view: TextView, codes: np.ndarray, tokenizer: PieceTokenizer) -> RowTexts:
        with self._lock:  # the tokenizer's own switches are no matter of one thread alone
            new = [piece for piece in view.pieces if piece not in self._tokens]
            if len(self._tokens) + len(new) > CACHED_PIECES:
                self._tokens, new = {}, list(view.pieces)
            if new:
                tokens, offsets = token_table(new, tokenizer)
                parts = np.split(tokens, offsets[1:-1])
                self._tokens.update(zip(new, parts, strict=True))
            found = [self._tokens[piece] for piece in view.pieces]
        special = {
            "cls": tokenizer.cls_id,
            "sep": tokenizer.sep_id,
            "mask": tokenizer.mask_id,
            "pad": tokenizer.pad_id,
        }
        return RowTexts(
            pieces=view.piece_ids(codes),
            piece_tokens=np.concatenate([np.zeros(0, np.int32), *found]),
            piece_offsets=np.cumsum([0, *map(len, found)]),
            max_tokens=self._max_tokens,
            special_tokens=special,
            tokens_around=tokenizer.around,
        )


def _cell(
    value: Any,
    field: FieldParameters,
    table: TableParameters,
    row: int,
    reasons: list[str | None],
) -> str | None:
    """One cell as text; None where it is missing or cannot be read, which is noted."""
    wanted = "a finite number" if field.kind == "numeric" else "text or a number"
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            _note(reasons, row, field, f"{wanted} in valid Unicode", value)
            return None
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return str(int(value)) if field.kind == "numeric" else str(value).lower()
    if isinstance(value, float) and not math.isfinite(value) and value == value:
        _note(reasons, row, field, wanted, value)
        return None
    if isinstance(value, int | float):
        text = as_text(value)
        if text is not None and field.kind == "numeric":
            text = text.replace(".", table.decimal)
        return text
    if field.kind == "multi_valued" and isinstance(value, list | tuple | np.ndarray):
        parts = [part for part in value if part is not None]
        if all(isinstance(part, str | int | float) for part in parts):
            return field.separator.join(str(as_text(part)) for part in parts)
    if field.kind != "numeric" and not isinstance(value, Mapping | list | tuple | set | np.ndarray):
        return str(value)
    _note(reasons, row, field, wanted, value)
    return None


def _note(
    reasons: list[str | None], row: int, field: FieldParameters, wanted: str, value: Any
) -> None:
    """Only the first reason of a row is kept."""
    if reasons[row] is None:
        reasons[row] = f"{field.column} must be {wanted}, got {_shown(value)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
