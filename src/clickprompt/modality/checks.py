"""Checks at the borders: readers -> interactions -> samples -> model input.

They work batch by batch in bounded memory and stop at the first value that breaks a rule; the error
names the column, the rule, the value and the row. Values of tables are checked by pandera, on
Arrow-backed columns without a copy. The arrays of the model input are checked by one numpy
reduction each: a frame of 2 F columns would cost more than all other checks together.

Letters: B rows of a chunk, F fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clickprompt.modality.repeated import DistinctKeys, RepeatedKeys, key_hashes
from clickprompt.modality.samples import SPLITS, require_columns
from clickprompt.parameters import DataParameters
from clickprompt.readers import InteractionStream

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

# whole numbers up to here are exact in the floats that pandas makes of a column with gaps
LATEST_TIME = 1 << 53
LARGEST_FLOAT = float(np.finfo(np.float64).max)


class InteractionsCheck:
    """The interactions table, batch by batch (the contract of ``clickprompt.readers``).

    - ``row`` counts 0, 1, 2, ... over all batches;
    - the columns that ``data`` names are there, each once, and hold text or numbers;
    - user and item are text or whole numbers, never null;
    - the label column holds finite numbers, never null;
    - numeric fields hold finite numbers or null, where they are not text;
    - the time is int64 from 0 to 2^53; where the split does not need it, it may be null or absent;
    - all text is valid UTF-8.

    Rows that repeat the key of an earlier row are counted, not refused. The key is (user, item,
    time), or (user, item) without a time. Readers drop exact copies, but a pair may be rated
    anew and a log may hold two events of one second; ``data.expected.repeated`` tells a data set
    where that must not be.

    Args:
        data: columns, fields, label, split and expected counts.
    """

    def __init__(self, data: DataParameters) -> None:
        self._data = data
        self._rows = 0
        self._schema: pa.Schema | None = None
        self._values: DataFrameSchema | None = None
        self._key: list[str] = []
        self._repeated = RepeatedKeys()
        self._distinct = {name: DistinctKeys() for name in _counted_columns(data)}

    def check(self, batch: pa.RecordBatch) -> None:
        """Check the next batch.

        Raises:
            ValueError: a rule is broken.
        """
        if self._schema is None:
            _check_types(batch.schema, self._data)
            self._schema = batch.schema
            self._values = self._value_schema(batch.schema)
            self._key = _key_columns(batch.schema, self._data)
        elif not batch.schema.equals(self._schema):
            raise ValueError(
                f"all batches must have the columns of the first one ({_listed(self._schema)}), "
                f"got {_listed(batch.schema)} from row {self._rows} on"
            )
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _check_text(name, column, self._rows)
        for name in (self._data.user, self._data.item):
            if name is not None and batch.column(name).null_count:
                row = self._rows + batch.column(name).is_null().index(True).as_py()
                raise ValueError(f"column {name} must have a value, got null in row {row}")
        assert self._values is not None
        columns = batch.select(list(self._values.columns))
        values = columns.to_pandas(types_mapper=pd.ArrowDtype)
        values.index = pd.RangeIndex(self._rows, self._rows + len(batch))
        _validate(self._values, values)
        if self._key:
            self._repeated.add(key_hashes([batch.column(name) for name in self._key]))
        for name, distinct in self._distinct.items():
            distinct.add(key_hashes([batch.column(name)]))
        self._rows += len(batch)

    def finish(self) -> dict[str, Any]:
        """Facts of the whole table, once, after the last batch.

        Returns:
            Plain JSON values:

            - ``rows``;
            - ``distinct``: column of the user or item -> number of different ones, where
              ``data.expected`` asks for it before any filter;
            - ``key``: columns of the key, none without a user or an item;
            - ``repeated``: rows that repeat the key of an earlier row, by 64-bit hashes (0 is
              exact, see ``clickprompt.modality.repeated``); None without a key;
            - ``repeated_rows``: the first two rows of up to 100 repeated keys.

        Raises:
            ValueError: there was no row.
        """
        if self._rows == 0:
            raise ValueError("interactions must have at least one row, got none")
        with self._repeated as keys:
            repeated, examples = keys.count()
        return {
            "rows": self._rows,
            "distinct": {name: keys.count() for name, keys in self._distinct.items()},
            "key": self._key,
            "repeated": repeated if self._key else None,
            "repeated_rows": [list(rows) for rows in examples],
        }

    def _value_schema(self, schema: pa.Schema) -> DataFrameSchema:
        """Rules of the columns whose values have rules beyond their type."""
        import pandera.pandas as pandera

        def column(name: str, rule: Any, gaps: bool) -> Any:
            return pandera.Column(pd.ArrowDtype(schema.field(name).type), rule, nullable=gaps)

        data = self._data
        finite = pandera.Check.in_range(-LARGEST_FLOAT, LARGEST_FLOAT, error="be a finite number")
        counted = pandera.Check(_is_counted, error="count 0, 1, 2, ... without gaps")
        possible = pandera.Check.in_range(
            0, LATEST_TIME, error="lie between 0 and 2^53 (seconds since 1970, or other ticks)"
        )
        columns = {
            field.column: column(field.column, finite, gaps=True)
            for field in data.fields
            if field.kind == "numeric" and pa.types.is_floating(schema.field(field.column).type)
        }
        columns["row"] = column("row", counted, gaps=False)
        columns[data.label.column] = column(data.label.column, finite, gaps=False)
        if data.time is not None and data.time in schema.names:
            columns[data.time] = column(data.time, possible, gaps=data.split.by != "time")
        return pandera.DataFrameSchema(columns)


class CheckedInteractions:
    """The stream of a reader, checked on its way: same schema, batches and report.

    The report has one more entry, ``table``: the facts of ``InteractionsCheck.finish``.
    """

    def __init__(self, stream: InteractionStream, data: DataParameters) -> None:
        self.schema: pa.Schema = stream.schema
        self._stream = stream
        self._check = InteractionsCheck(data)
        self._facts: dict[str, Any] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches.

        Raises:
            ValueError: one breaks a rule of ``InteractionsCheck``.
        """
        for batch in self._stream:
            self._check.check(batch)
            yield batch
        self._facts = self._check.finish()

    @property
    def report(self) -> dict[str, Any]:
        """The reader's report and the facts of the table, once all batches were read.

        Raises:
            RuntimeError: there are batches left.
        """
        return {**self._stream.report, "table": self._facts}


def check_samples(samples: pd.DataFrame, data: DataParameters) -> None:
    """Check the samples: ``row`` int64, ``label`` and ``split`` int8, ordered by split, then row.

    Labels are 0 or 1, splits 0 (train), 1 (valid) or 2 (test); no row occurs twice, no split is
    empty, and train has both classes.

    Raises:
        ValueError: a rule is broken; names the column, the rule, the value and its position.
    """
    import pandera.pandas as pandera

    samples = samples.reset_index(drop=True)  # positions, by which errors name a row

    def ordered(row: pd.Series) -> pd.Series:
        rises = np.ones(len(row), dtype=bool)
        np.greater(row.to_numpy()[1:], row.to_numpy()[:-1], out=rises[1:])
        rises[starts[1:3]] = True
        return pd.Series(rises, row.index)

    _validate(
        pandera.DataFrameSchema(
            {
                "split": pandera.Column(
                    "int8",
                    [
                        pandera.Check.in_range(0, 2, error="be 0, 1 or 2"),
                        pandera.Check(_never_falls, error="be sorted"),
                    ],
                )
            }
        ),
        samples,
    )
    starts = np.searchsorted(samples["split"].to_numpy(), np.arange(4))
    for name, count in zip(SPLITS, np.diff(starts), strict=True):
        if count == 0:
            raise ValueError(f"split {name} must have at least one row, got none")
    _validate(
        pandera.DataFrameSchema(
            {
                "label": pandera.Column("int8", pandera.Check.in_range(0, 1, error="be 0 or 1")),
                "row": pandera.Column(
                    "int64",
                    [
                        pandera.Check.ge(0, error="be at least 0"),
                        pandera.Check(ordered, error="rise within each split"),
                    ],
                ),
            }
        ),
        samples,
    )
    parts = np.split(samples["row"].to_numpy(), starts[1:3])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        _require_apart(parts[one], parts[other], SPLITS[one], SPLITS[other])
    train = samples["label"].to_numpy()[: starts[1]]
    if train.min() == train.max():
        raise ValueError(
            f"label must be of both classes in train, got only {int(train[0])} in {len(train)} "
            f"rows: look at data.label ({data.label.column} from {data.label.positive_from} is 1, "
            f"to {data.label.negative_to} is 0)"
        )


class ModelInputCheck:
    """The model input, chunk by chunk: no id, piece or label is outside of its range.

    Args:
        field_sizes: (F,) rows of each field's embedding table; of a bag field the number of its
            combinations, since its ids are numbers of combinations.
        pieces: P, number of the text pieces.
        fields: (F,) names for the errors.
    """

    def __init__(
        self, field_sizes: Sequence[int], pieces: int, *, fields: Sequence[str] | None = None
    ) -> None:
        self._sizes = tuple(field_sizes)
        self._pieces = pieces
        self._fields = tuple(fields or (f"field {number}" for number in range(len(field_sizes))))
        assert len(self._fields) == len(self._sizes)
        self._rows = 0

    def check(
        self,
        ids: np.ndarray,
        pieces: np.ndarray,
        labels: np.ndarray,
        row_numbers: np.ndarray | None = None,
    ) -> None:
        """Check the next chunk.

        Args:
            ids: (B, F) int32.
            pieces: (B, F) int32.
            labels: (B,) int8.
            row_numbers: (B,) int64, if the chunk has them.

        Raises:
            ValueError: a shape or type is another one, or a value is outside of its range.
        """
        rows = len(labels)
        for name, array, shape, of in (
            ("ids", ids, (rows, len(self._sizes)), np.int32),
            ("pieces", pieces, (rows, len(self._sizes)), np.int32),
            ("labels", labels, (rows,), np.int8),
            ("row_numbers", row_numbers, (rows,), np.int64),
        ):
            if array is not None and (array.shape != shape or array.dtype != of):
                raise ValueError(
                    f"{name} must be {np.dtype(of)} {shape}, got {array.dtype} {array.shape}"
                )
        limits = np.array(self._sizes)
        self._require(ids, limits, "id of {}")
        self._require(pieces, np.full(len(limits), self._pieces), "piece of {}")
        self._require(labels[:, None], np.array([2]), "label")
        if row_numbers is not None:
            self._require(row_numbers[:, None], np.array([1 << 62]), "row number")
        self._rows += rows

    def finish(self, rows: int) -> None:
        """Check that all ``rows`` were seen.

        Raises:
            ValueError: it were more or less.
        """
        if self._rows != rows:
            raise ValueError(f"the model input must have {rows} rows, got {self._rows}")

    def _require(self, values: np.ndarray, limits: np.ndarray, name: str) -> None:
        """Every value of ``values`` (B, columns) is at least 0 and below the column's limit."""
        # seen without a sign, a negative number is above every limit
        unsigned = values.view(f"u{values.itemsize}")
        above = unsigned.max(axis=0, initial=0) >= limits.astype(np.uint64)
        if not above.any():
            return
        column = int(np.argmax(above))
        row = int(np.argmax(unsigned[:, column] >= limits[column]))
        raise ValueError(
            f"{name.format(self._fields[column])} must lie in 0..{limits[column] - 1}, "
            f"got {values[row, column]} in row {self._rows + row}"
        )


def _check_types(schema: pa.Schema, data: DataParameters) -> None:
    """The columns that ``data`` names are in the table, once, and of types that can be read."""
    named = [data.label.column, data.user, data.item, *(field.column for field in data.fields)]
    if data.split.by == "time":
        named.append(data.time)
    if data.split.by == "column":
        named.append(data.split.column)
    require_columns(schema.names, [name for name in named if name is not None])
    for name, of in zip(schema.names, schema.types, strict=True):
        if schema.names.count(name) > 1:
            raise ValueError(f"interactions must have each column once, got {name} more than once")
        if name in ("row", data.time):
            rule, good = "int64", of.equals(pa.int64())
        elif name == data.label.column:
            rule, good = "numbers", pa.types.is_integer(of) or pa.types.is_floating(of)
        elif name in (data.user, data.item):
            rule, good = "text or whole numbers", _is_text(of) or pa.types.is_integer(of)
        else:
            plain = pa.types.is_primitive(of) and not pa.types.is_temporal(of)
            good = _is_text(of) or plain
            rule = "text, numbers or truth values"
        if not good:
            raise ValueError(f"column {name} must hold {rule}, got {of}")


def _is_text(of: pa.DataType) -> bool:
    if pa.types.is_dictionary(of):
        of = of.value_type
    return pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)


def _key_columns(schema: pa.Schema, data: DataParameters) -> list[str]:
    """Columns by which rows are told apart; none where the table names no user or no item."""
    if data.user is None or data.item is None:
        return []
    key = [data.user, data.item]
    if data.time is not None and data.time in schema.names:
        key.append(data.time)
    return key


def _counted_columns(data: DataParameters) -> list[str]:
    """User and item, as far as somebody asks how many; a filter counts those that it leaves."""
    expected = data.expected_counts
    if expected is None or data.filters.active:
        return []
    asked = ((data.user, expected.users), (data.item, expected.items))
    return [name for name, count in asked if name is not None and count is not None]


def _check_text(name: str, column: pa.Array, first_row: int) -> None:
    """All text is valid UTF-8; a dictionary has no null, and every code of it a value."""
    if not _is_text(column.type):
        return
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if pa.types.is_dictionary(column.type):
            raise ValueError(f"column {name} must hold a valid dictionary, got: {error}") from None
        row = _first_invalid(column)
        text = column[row].as_buffer().to_pybytes()[:50]
        raise ValueError(
            f"column {name} must hold valid UTF-8 text, got {text!r} in row {first_row + row}"
        ) from None
    if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
        raise ValueError(f"column {name} must hold a dictionary without null, got one with it")


def _first_invalid(texts: pa.Array) -> int:
    """Position of the first text that is not valid; there is one."""
    start, stop = 0, len(texts)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            texts[start:middle].validate(full=True)
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start


def _validate(schema: DataFrameSchema, values: pd.DataFrame) -> None:
    """Validate, and say what pandera found in this project's words; rows are named by the index."""
    from pandera.errors import SchemaError, SchemaErrorReason

    try:
        schema.validate(values)
    except SchemaError as error:
        reason, cases = error.reason_code, error.failure_cases
        if reason == SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME:
            missing = [name for name in schema.columns if name not in values]
            raise ValueError(
                f"the table must have a column {missing[0]}, got {', '.join(map(str, values))}"
            ) from None
        name = error.schema.name
        if reason == SchemaErrorReason.WRONG_DATATYPE:
            of = schema.columns[name].dtype
            raise ValueError(f"column {name} must be {of}, got {values[name].dtype}") from None
        if not isinstance(cases, pd.DataFrame) or cases["index"].isna().any():
            raise  # a check could not be computed: a fault of ours
        row = cases["index"].min()
        nulls = reason == SchemaErrorReason.SERIES_CONTAINS_NULLS
        rule = "have a value" if nulls else error.check.error
        value = "null" if nulls else str(values.at[row, name])
        raise ValueError(f"column {name} must {rule}, got {value} in row {row}") from None


def _is_counted(row: pd.Series) -> pd.Series:
    return pd.Series(row.to_numpy(dtype=np.int64) == row.index.to_numpy(), row.index)


def _never_falls(values: pd.Series) -> pd.Series:
    """Whether each value is at least the one before; (rows,) bool."""
    numbers = values.to_numpy()
    good = np.ones(len(numbers), dtype=bool)
    np.greater_equal(numbers[1:], numbers[:-1], out=good[1:])
    return pd.Series(good, values.index)


def _require_apart(one: np.ndarray, other: np.ndarray, *names: str) -> None:
    """Two sorted arrays of rows have none in common."""
    at = np.minimum(np.searchsorted(one, other), len(one) - 1)
    common = other[one[at] == other]
    if len(common):
        raise ValueError(
            f"column row must hold each row once, got {common[0]} in both {' and '.join(names)}"
        )


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
