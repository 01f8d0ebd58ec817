"""Amazon reviews "Toys and Games": the forms published in 2014, 2018 and 2023.

One file of reviews and one of metadata (its name begins with ``meta_``), one record a line, plain
or gzipped. The form is recognised from the keys of the first lines:

| | 2014 | 2018 | 2023 |
|---|---|---|---|
| reviews | JSON | JSON | JSON |
| user, item | reviewerID, asin | the same | user_id, parent_asin |
| rating, time | overall, unixReviewTime (s) | the same | rating, timestamp (ms) |
| metadata | Python literals | JSON | JSON |
| category | categories, a list of paths | category, one path | categories, one path |
| brand | brand | brand | store, else details.Brand |

Columns of the interactions table: ``row``, ``user_id``, ``item_id`` (text, leading zeros kept),
``category``, ``title``, ``brand``, ``rating`` (1 to 5), ``timestamp`` (seconds; whole days in 2014
and 2018). ``category`` is the last, that is the most specific, name of the item's (first) path; the
root where the path has no more. Texts are published as pieces of a web page: tags are left out,
entities decoded and white space made single.

A later review of the same user, item and time is dropped as a duplicate. Reviews of items without
metadata are kept, with missing texts.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.json_lines import read_records
from clickprompt.readers.formats.line_blocks import example
from clickprompt.readers.formats.records import (
    collect,
    encodable,
    finite_number,
    joined_surrogates,
    wrong_id,
)
from clickprompt.readers.formats.text_table import TextTable, require_usable
from clickprompt.readers.ratings import unique_ids
from clickprompt.readers.report import ReadReport

SCALE = (1.0, 5.0)
FIRST_LINES = 100  # looked at to recognise the form
TEXTS = ("category", "title", "brand")

_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")
_SPACE = re.compile(r"\s+")
# some titles of 2018 are a script of the page instead; the publisher's notebook leaves them out so
_SCRIPT = "getTime"


@dataclass(frozen=True)
class ReviewForm:
    """Keys of a review; ``ticks`` of its time are one second."""

    published: str
    user: str
    item: str
    rating: str
    time: str
    ticks: int

    @property
    def required(self) -> tuple[str, ...]:
        """Keys that every review has."""
        return (self.user, self.item, self.rating, self.time)

    @property
    def typical(self) -> tuple[str, ...]:
        """Keys by which the form is told from the others."""
        return self.required


@dataclass(frozen=True)
class MetadataForm:
    """Keys of an item's metadata, all but ``item`` missing at will."""

    published: str
    item: str
    category: str
    brand: str

    @property
    def required(self) -> tuple[str, ...]:
        """Keys that every item has."""
        return (self.item,)

    @property
    def typical(self) -> tuple[str, ...]:
        """Keys by which the form is told from the others."""
        return (self.item, self.category)


REVIEWS = (
    ReviewForm("2014 or 2018", "reviewerID", "asin", "overall", "unixReviewTime", 1),
    ReviewForm("2023", "user_id", "parent_asin", "rating", "timestamp", 1000),
)
METADATA = (
    MetadataForm("2014", "asin", "categories", "brand"),
    MetadataForm("2018", "asin", "category", "brand"),
    MetadataForm("2023", "parent_asin", "categories", "store"),
)

Form = TypeVar("Form", ReviewForm, MetadataForm)


def read_amazon_toys(files: Mapping[str, Path], report: ReadReport) -> pd.DataFrame:
    """Read the file of reviews and the file of metadata.

    Raises:
        ValueError: not one file of each, a file of no known form, two forms that do not belong
            together, or metadata of other items; and what makes a file unusable as a whole.
    """
    reviews_name, metadata_name = _names(files)
    review_form = _recognise(files, reviews_name, REVIEWS)
    metadata_form = _recognise(files, metadata_name, METADATA)
    if review_form.item != metadata_form.item:
        raise ValueError(
            f"reviews and metadata must be of the same form, got {reviews_name} of "
            f"{review_form.published} and {metadata_name} of {metadata_form.published}"
        )
    items = _read_metadata(files, metadata_name, metadata_form, report)
    reviews = _read_reviews(files, reviews_name, review_form, report)

    at = pc.index_in(reviews["item_id"], items["item_id"])
    unknown = pc.is_null(at).to_numpy(zero_copy_only=False)
    if unknown.all():
        raise ValueError(
            f"{metadata_name} must describe the items of {reviews_name}, got none of them among "
            f"its {len(items)}"
        )
    reviews.note(unknown, "item_id_is_not_in_its_file", report)
    report.rows_kept = len(reviews)
    arrays = {
        "row": pa.array(np.arange(len(reviews), dtype=np.int64)),
        "user_id": reviews["user_id"],
        "item_id": reviews["item_id"],
        **{column: items[column].take(at) for column in TEXTS},
        "rating": reviews["rating"],
        "timestamp": pc.divide(reviews["timestamp"], review_form.ticks),
    }
    return pa.table(arrays).to_pandas(split_blocks=True, self_destruct=True)


def _names(files: Mapping[str, Path]) -> tuple[str, str]:
    """Names of the reviews and of the metadata, without ``.gz``."""
    names = sorted({name.removesuffix(".gz") for name in files})
    metadata = [name for name in names if name.startswith("meta_")]
    reviews = [name for name in names if not name.startswith("meta_")]
    if len(metadata) != 1 or len(reviews) != 1:
        raise ValueError(
            "files must hold one file of reviews and one of metadata, whose name begins with "
            f"meta_, got {', '.join(names) or 'none'}"
        )
    return reviews[0], metadata[0]


def _recognise(files: Mapping[str, Path], name: str, forms: Sequence[Form]) -> Form:
    """The form whose keys are the most frequent in the first lines."""
    unread = ReadReport()
    records = read_records(files, name, kind="skipped", report=unread)
    first = [record for _, _, record in islice(records, FIRST_LINES)]
    form = max(forms, key=lambda form: sum(key in r for r in first for key in form.typical))
    if not any(record.keys() >= set(form.required) for record in first):
        known = " or ".join(dict.fromkeys(", ".join(form.required) for form in forms))
        lines = [str(event["text"]) for event in unread.examples()]
        found = ", ".join(map(str, first[0])) if first else lines[0] if lines else "no record"
        raise ValueError(
            f"{name} must have the keys {known} in its first {FIRST_LINES} lines, "
            f"got {found[:200]!r}"
        )
    return form


def _read_reviews(
    files: Mapping[str, Path], name: str, form: ReviewForm, report: ReadReport
) -> TextTable:
    """Usable reviews: ``user_id``, ``item_id``, ``rating`` and ``timestamp`` in published ticks."""

    def rows() -> Iterable[tuple[Any, ...]]:
        for number, line, record in read_records(files, name, kind="dropped", report=report):
            user, item = record.get(form.user), record.get(form.item)
            rating, time = finite_number(record.get(form.rating)), _whole(record.get(form.time))
            if wrong := wrong_id(user):
                reason = wrong.format("user_id")
            elif wrong := wrong_id(item):
                reason = wrong.format("item_id")
            elif rating is None:
                reason = "rating_is_not_a_number"
            elif not SCALE[0] <= rating <= SCALE[1]:
                reason = "rating_is_not_on_the_scale"
            elif time is None:
                reason = "timestamp_is_not_a_whole_number"
            else:
                yield number, user, item, rating, time
                continue
            report.add("dropped", reason, name, 1, [(number, example(line))])

    text = pa.large_string()
    schema = {"user_id": text, "item_id": text, "rating": pa.float64(), "timestamp": pa.int64()}
    table = collect(rows(), schema, name, "dropped")
    table = table.without(_duplicates(table), "duplicate_review", report)
    require_usable(table, report.rows_read, report)
    return table


def _read_metadata(
    files: Mapping[str, Path], name: str, form: MetadataForm, report: ReadReport
) -> TextTable:
    """Items with unique ``item_id`` and the texts, null where missing."""

    def rows() -> Iterable[tuple[Any, ...]]:
        for number, line, record in read_records(files, name, kind="skipped", report=report):
            item = record.get(form.item)
            if wrong := wrong_id(item):
                reason = wrong.format("item_id")
                report.add("skipped", reason, name, 1, [(number, example(line))])
                continue
            published = (
                _category(record.get(form.category), name, number, report),
                record.get("title"),
                _brand(record, form),
            )
            texts = (
                _text(value, column, name, number, report)
                for column, value in zip(TEXTS, published, strict=True)
            )
            yield number, item, *texts

    schema = dict.fromkeys(("item_id", *TEXTS), pa.large_string())
    table = collect(rows(), schema, name, "skipped")
    unusable = sum(report.reasons("skipped").values()) - report.reasons("skipped").get(
        "blank_line", 0
    )
    require_usable(table, len(table) + unusable, report)
    table = unique_ids(table, "item_id", report)
    for column in TEXTS:
        missing = pc.is_null(table[column]).to_numpy(zero_copy_only=False)
        table.note(missing, f"item_without_{column}", report)
    return table


def _duplicates(table: TextTable) -> np.ndarray:
    """Rows with the user, item and time of an earlier one."""
    codes = {
        name: pc.dictionary_encode(table[name]).indices.to_numpy()
        for name in ("user_id", "item_id")
    }
    keys = pd.DataFrame({**codes, "timestamp": table["timestamp"].to_numpy()})
    return keys.duplicated().to_numpy()


def _whole(value: Any) -> int | None:
    """A time from 1970 on in whole ticks."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) <= 18 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN and infinities fail the comparison
    return int(value) if 0 <= value < 10**18 and value == int(value) else None


def _category(value: Any, name: str, number: int, report: ReadReport) -> Any:
    """Most specific name of a category path, or of the first path where there are several."""
    if not isinstance(value, list):
        return value
    paths = [part for part in value if isinstance(part, list)]
    path = next((path for path in paths if path), []) if paths else value
    for depth, part in enumerate(path):
        # in 2018 closing tags end some paths, and sentences about the item follow
        if not isinstance(part, str) or not _cleaned(part):
            report.add("repaired", "category_path_cut", name, 1, [(number, ascii(path))])
            path = path[:depth]
            break
    return path[-1] if path else None


def _brand(record: Mapping[str, Any], form: MetadataForm) -> Any:
    if brand := record.get(form.brand):
        return brand
    details = record.get("details")
    return details.get("Brand") if form.published == "2023" and isinstance(details, dict) else None


def _cleaned(text: str) -> str:
    """Text of a piece of HTML in one line."""
    if "<" in text:
        text = _TAG.sub(" ", text)
    if "&" in text:
        text = html.unescape(text)
    return joined_surrogates(_SPACE.sub(" ", text).strip())


def _text(value: Any, column: str, name: str, number: int, report: ReadReport) -> str | None:
    """A published text as the table has it; what was changed is reported."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        report.add("repaired", f"{column}_is_not_text", name, 1, [(number, str(value))])
        return None
    shown = value if encodable(value) else ascii(value)
    if column == "title" and _SCRIPT in value:
        report.add("repaired", "title_is_a_script", name, 1, [(number, shown)])
        return None
    text = _cleaned(value)
    if text != value:
        report.add("repaired", f"cleaned_{column}", name, 1, [(number, shown)])
    return text or None
