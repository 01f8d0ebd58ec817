"""Amazon Toys and Games: the three published forms, every quirk, and damaged files."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.modality import (
    build_text_view,
    encode_fields,
    filter_interactions,
    label_and_split,
)
from clickprompt.parameters import DataParameters
from clickprompt.readers import ReadResult, read_interactions
from clickprompt.readers.formats import line_blocks as blocks

DATA = DataParameters(
    reader="amazon_toys",
    item="item_id",
    fields=[{"column": "user_id", "name": "user id"}],
    label={"positive_from": 4, "negative_to": 2},
)
TEXTS = ["category", "title", "brand"]


def lines(*records: Any) -> bytes:
    """Strict JSON, one record a line; text that is given is a line as it is."""
    return b"".join((r if isinstance(r, str) else json.dumps(r)).encode() + b"\n" for r in records)


def literals(*records: Any) -> bytes:
    """Python literals, as the metadata of 2014."""
    return b"".join(repr(r).encode() + b"\n" for r in records)


# --- the three forms, in the layouts that their publisher describes ------------------------


def review_2014(user="A1VXOAVRGKGEAK", item="0439893577", rating=5.0, day=15_000, **other):
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": "Angie",
        "helpful": [0, 0],
        "reviewText": 'I like the item pricing. "My granddaughter" wanted to mark on it\nbut …',
        "overall": rating,
        "summary": "Magnetic board",
        "unixReviewTime": day * 86_400,
        "reviewTime": "01 29, 2014",
    } | other


def metadata_2014(item="0439893577", **other):
    return {
        "asin": item,
        "title": "Melissa & Doug Magnetic Board",
        "price": 18.49,
        "imUrl": "http://ecx.images-amazon.com/images/I/61.jpg",
        "related": {"also_bought": ["B00JHONN1S", "B002BZX8Z6"]},
        "salesRank": {"Toys & Games": 211836},
        "brand": "Scholastic",
        "categories": [["Toys & Games", "Learning & Education", "Easels"]],
    } | other


def review_2018(user="A1VXOAVRGKGEAK", item="0439893577", rating=5.0, day=17_000, **other):
    return {
        "overall": rating,
        "verified": True,
        "reviewTime": "01 29, 2018",
        "reviewerID": user,
        "asin": item,
        "style": {"Size:": " Large"},
        "reviewText": "A fun game",
        "unixReviewTime": day * 86_400,
        "vote": "2",
        "image": ["https://images-na.ssl-images-amazon.com/images/I/71.jpg"],
    } | other


def metadata_2018(item="0439893577", **other):
    return {
        "category": ["Toys & Games", "Learning & Education", "Easels"],
        "description": ["<b>A board</b>"],
        "title": "Magnetic Board",
        "brand": "Scholastic",
        "rank": [">#211,836 in Toys &amp; Games"],
        "main_cat": "Toys &amp; Games",
        "price": "$18.49",
        "asin": item,
    } | other


def review_2023(user="AGKASBHYZPGTEPO6LWZPVJWB2BVA", item="0439893577", rating=5.0, **other):
    return {
        "rating": rating,
        "title": "Great toy",
        "text": "Nice",
        "images": [],
        "asin": "B07C3XXXXX",  # a variant of parent_asin
        "parent_asin": item,
        "user_id": user,
        "timestamp": 1588615855070,
        "helpful_vote": 0,
        "verified_purchase": True,
    } | other


def metadata_2023(item="0439893577", **other):
    return {
        "main_category": "Toys & Games",
        "title": "Magnetic Board",
        "average_rating": 4.5,
        "rating_number": 12,
        "features": ["Magnetic"],
        "price": 18.49,
        "store": "Scholastic",
        "categories": ["Toys & Games", "Learning & Education", "Easels"],
        "details": {"Brand": "Scholastic Inc.", "Manufacturer": "Scholastic"},
        "parent_asin": item,
    } | other


NAMES = {
    "2014": ("reviews_Toys_and_Games.json", "meta_Toys_and_Games.json"),
    "2018": ("Toys_and_Games.json", "meta_Toys_and_Games.json"),
    "2023": ("Toys_and_Games.jsonl", "meta_Toys_and_Games.jsonl"),
}
REVIEW = {"2014": review_2014, "2018": review_2018, "2023": review_2023}
METADATA = {"2014": metadata_2014, "2018": metadata_2018, "2023": metadata_2023}
WRITE = {"2014": literals, "2018": lines, "2023": lines}
FORMS = tuple(NAMES)


def read(folder: Path, form: str, reviews: bytes, metadata: bytes | None = None) -> ReadResult:
    files = {name: folder / name for name in NAMES[form]}
    if metadata is None:
        metadata = WRITE[form](METADATA[form]())
    for path, raw in zip(files.values(), (reviews, metadata), strict=True):
        path.write_bytes(raw)
    result = read_interactions(files, DATA)
    report = result.report
    assert report["rows_kept"] == len(result.interactions)
    assert report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())
    return result


def reasons(report: dict[str, Any], reason: str) -> list[tuple[str, int]]:
    return [(e["file"], e["line"]) for e in report["examples"] if e["reason"] == reason]


@pytest.mark.parametrize("form", FORMS)
def test_columns_and_types(tmp_path, form):
    table = read(tmp_path, form, lines(REVIEW[form]())).interactions
    assert list(table) == ["row", "user_id", "item_id", *TEXTS, "rating", "timestamp"]
    assert [str(table[c].dtype) for c in ("row", "rating", "timestamp")] == [
        "int64", "float64", "int64",
    ]  # fmt: skip
    title = "Melissa & Doug Magnetic Board" if form == "2014" else "Magnetic Board"
    assert table.iloc[0].tolist() == [
        0,
        REVIEW[form]()["user_id" if form == "2023" else "reviewerID"],
        "0439893577",
        "Easels",
        title,
        "Scholastic",
        5.0,
        {"2014": 15_000 * 86_400, "2018": 17_000 * 86_400, "2023": 1588615855}[form],
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_clean_file_has_a_clean_report(tmp_path, form):
    report = read(tmp_path, form, lines(REVIEW[form]())).report
    assert report["dropped"] == report["repaired"] == report["skipped"] == {}


@pytest.mark.parametrize("form", FORMS)
def test_gzipped_files_give_the_same(tmp_path, form):
    reviews = lines(*(REVIEW[form](user=f"A{n}") for n in range(5)))
    plain = read(tmp_path, form, reviews)
    files = {}
    for name in NAMES[form]:
        files[name] = tmp_path / f"{name}.gz"
        files[name].write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    packed = read_interactions(files, DATA)
    assert packed.interactions.equals(plain.interactions)
    assert packed.report == plain.report


def test_the_published_5_core_and_names_with_gz_serve_too(tmp_path):
    files = {}
    for name, raw in {
        "reviews_Toys_and_Games_5.json.gz": lines(review_2014()),
        "meta_Toys_and_Games.json.gz": literals(metadata_2014()),
    }.items():
        files[name] = tmp_path / name
        files[name].write_bytes(gzip.compress(raw))
    assert len(read_interactions(files, DATA).interactions) == 1


def test_the_environment_makes_samples_of_every_form(tmp_path):
    """Filter, labels and text by the parameters of conf/amazon_toys."""
    conf = Path(__file__).parents[2] / "conf/amazon_toys/parameters.yml"
    data = DataParameters.model_validate(yaml.safe_load(conf.read_text(encoding="utf-8"))["data"])
    for form in FORMS:
        pairs = [(f"A{u}", f"B{i}", 1 + (u + i) % 5) for u in range(6) for i in range(6)]
        reviews = lines(*(REVIEW[form](u, i, float(r)) for u, i, r in [*pairs, ("A0", "C", 5)]))
        metadata = WRITE[form](*(METADATA[form](f"B{i}") for i in range(5)))
        interactions = read(tmp_path, form, reviews, metadata).interactions
        filtered, report = filter_interactions(interactions, data)
        assert report == {"rows_removed": 1, "users": 6, "items": 6}
        samples = label_and_split(filtered, data)
        codes = encode_fields(filtered, samples, data)
        samples = samples.merge(filtered, on="row", validate="one_to_one")
        threes = sum(rating == 3 for _, _, rating in pairs)
        assert len(samples) == 36 - threes
        texts = build_text_view(codes, data).texts(codes.codes)
        title = METADATA[form]()["title"]
        known = f"category is Easels. title is {title}. brand is Scholastic."
        unknown = "category is unknown. title is unknown. brand is unknown."
        for row, (user, item) in enumerate(samples[["user_id", "item_id"]].itertuples(index=False)):
            rest = unknown if item == "B5" else known
            assert texts[row] == f"user id is {user}. item id is {item}. {rest}"


# --- traps of 2014 ---------------------------------------------------------------------------


def test_metadata_lines_are_python_literals(tmp_path):
    metadata = (
        b"{'asin': '0439893577', 'title': \"Bob's \\\"Big\\\" Box\", 'brand': 'O\\'Neil\\xe9'}\n"
    )
    row = read(tmp_path, "2014", lines(review_2014()), metadata).interactions.iloc[0]
    assert row["title"] == 'Bob\'s "Big" Box'
    assert row["brand"] == "O'Neilé"


def test_a_line_is_never_executed(tmp_path):
    made = tmp_path / "made"
    evil = f"{{'asin': open({str(made)!r}, 'w').name}}\n".encode()
    report = read(tmp_path, "2014", lines(review_2014()), literals(metadata_2014()) + evil).report
    assert not made.exists()
    assert report["skipped"] == {"malformed_line": 1}


def test_keys_are_missing_at_will(tmp_path):
    report = read(tmp_path, "2014", lines(review_2014()), literals({"asin": "0439893577"}))
    assert report.interactions[TEXTS].isna().all(axis=None)
    assert report.report["repaired"] == {f"item_without_{column}": 1 for column in TEXTS}


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([["Toys & Games", "Dolls", "Playsets"], ["Baby", "Toys"]], "Playsets"),
        ([["Toys & Games"]], "Toys & Games"),
        ([[], ["Toys & Games", "Puzzles"]], "Puzzles"),
        ([[]], None),
        ([], None),
        (None, None),
        ([["Toys & Games", None]], "Toys & Games"),
        (7, None),
    ],
)
def test_category_is_the_last_of_the_first_path(tmp_path, categories, expected):
    metadata = literals(metadata_2014(categories=categories))
    table = read(tmp_path, "2014", lines(review_2014()), metadata).interactions
    assert table.isna()["category"][0] if expected is None else table["category"][0] == expected


def test_leading_zeros_of_ids_are_kept(tmp_path):
    metadata = literals(metadata_2014("0000031852"), metadata_2014("31852", title="Other"))
    reviews = lines(review_2014("007", "0000031852"), review_2014("7", "31852"))
    table = read(tmp_path, "2014", reviews, metadata).interactions
    assert table["user_id"].tolist() == ["007", "7"]
    assert table["item_id"].tolist() == ["0000031852", "31852"]
    assert table["title"].tolist() == ["Melissa & Doug Magnetic Board", "Other"]


def test_ids_like_words_for_missing_stay_text(tmp_path):
    table = read(tmp_path, "2014", lines(review_2014("nan"), review_2014("None"))).interactions
    assert table["user_id"].tolist() == ["nan", "None"]


# --- traps of 2018 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("Dolls &amp; <b>Bears</b>", "Dolls & Bears"),
        ('<span id="productTitle">\n  Big\n Box </span>', "Big Box"),
        ("Ages &lt;3 &#39;n up", "Ages <3 'n up"),
        ("for 2 < 3 players", "for 2 < 3 players"),
        ("caf\u00e9 \ud83d\ude00", "caf\u00e9 \U0001f600"),
        ("half \ud83d", "half \ufffd"),
        ("<br/>", None),
        ("var aPageStart = (new Date()).getTime();\nvar ue_t0=", None),
        (["a list"], None),
        ("", None),
    ],
)
def test_html_in_titles(tmp_path, published, expected):
    result = read(tmp_path, "2018", lines(review_2018()), lines(metadata_2018(title=published)))
    found = result.interactions["title"]
    assert found.isna()[0] if expected is None else found[0] == expected
    if published not in (expected, "", "caf\u00e9 \ud83d\ude00"):
        assert set(result.report["repaired"]) & {
            "cleaned_title", "title_is_a_script", "title_is_not_text",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        (["Toys &amp; Games", "Dress Up &amp; Pretend Play"], "Dress Up & Pretend Play"),
        (["Toys & Games"], "Toys & Games"),
        ([], None),
    ],
)
def test_flat_category(tmp_path, category, expected):
    metadata = lines(metadata_2018(category=category))
    table = read(tmp_path, "2018", lines(review_2018()), metadata).interactions
    assert table.isna()["category"][0] if expected is None else table["category"][0] == expected


def test_a_category_path_ends_at_closing_tags(tmp_path):
    path = ["Toys & Games", "Hats", "</span></span></span>", "Machine wash"]
    result = read(tmp_path, "2018", lines(review_2018()), lines(metadata_2018(category=path)))
    assert result.interactions["category"].tolist() == ["Hats"]
    assert result.report["repaired"] == {"category_path_cut": 1}


def test_repeated_metadata_and_the_first_counts(tmp_path):
    metadata = lines(metadata_2018(title="one"), metadata_2018(title="two"))
    result = read(tmp_path, "2018", lines(review_2018()), metadata)
    assert result.interactions["title"].tolist() == ["one"]
    assert result.report["skipped"] == {"repeated_item_id": 1}


# --- traps of 2023 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "Scholastic"),
        ({"store": None}, "Scholastic Inc."),
        ({"store": None, "details": {}}, None),
        ({"store": None, "details": None}, None),
        ({"store": None, "details": {"Brand": 3}}, None),
    ],
)
def test_brand_is_the_store_or_the_brand_of_the_details(tmp_path, changed, expected):
    metadata = lines(metadata_2023(**changed))
    table = read(tmp_path, "2023", lines(review_2023()), metadata).interactions
    assert table.isna()["brand"][0] if expected is None else table["brand"][0] == expected


def test_milliseconds_become_seconds_after_the_search_for_duplicates(tmp_path):
    times = (1588615855070, 1588615855071, 1588615855070)
    result = read(tmp_path, "2023", lines(*(review_2023(timestamp=time) for time in times)))
    assert result.interactions["timestamp"].tolist() == [1588615855, 1588615855]
    assert result.report["dropped"] == {"duplicate_review": 1}


def test_a_review_belongs_to_the_parent_item(tmp_path):
    assert read(tmp_path, "2023", lines(review_2023())).interactions["title"][0] == "Magnetic Board"


# --- what all forms share ----------------------------------------------------------------------

BAD_VALUES = [
    ("user", "absent", "empty_user_id"),
    ("user", None, "empty_user_id"),
    ("user", "", "empty_user_id"),
    ("user", 7, "user_id_is_not_text"),
    ("user", "\ud83d", "user_id_is_not_text"),
    ("item", "absent", "empty_item_id"),
    ("item", None, "empty_item_id"),
    ("item", 31852, "item_id_is_not_text"),
    ("rating", "absent", "rating_is_not_a_number"),
    ("rating", None, "rating_is_not_a_number"),
    ("rating", "good", "rating_is_not_a_number"),
    ("rating", True, "rating_is_not_a_number"),
    ("rating", [5], "rating_is_not_a_number"),
    ("rating", float("nan"), "rating_is_not_a_number"),
    ("rating", 10**400, "rating_is_not_a_number"),
    ("rating", 0.0, "rating_is_not_on_the_scale"),
    ("rating", 6, "rating_is_not_on_the_scale"),
    ("time", "absent", "timestamp_is_not_a_whole_number"),
    ("time", None, "timestamp_is_not_a_whole_number"),
    ("time", "soon", "timestamp_is_not_a_whole_number"),
    ("time", 1.5, "timestamp_is_not_a_whole_number"),
    ("time", -1, "timestamp_is_not_a_whole_number"),
    ("time", 10**30, "timestamp_is_not_a_whole_number"),
    ("time", float("inf"), "timestamp_is_not_a_whole_number"),
]
KEYS = {
    "2014": {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"},
    "2023": {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"},
}
KEYS["2018"] = KEYS["2014"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("part", "value", "reason"), BAD_VALUES)
def test_a_review_that_cannot_be_used(tmp_path, form, part, value, reason):
    bad = REVIEW[form]() | {KEYS[form][part]: value}
    if value == "absent":
        del bad[KEYS[form][part]]
    report = read(tmp_path, form, lines(REVIEW[form](), bad)).report
    assert report["dropped"] == {reason: 1}
    assert reasons(report, reason) == [(NAMES[form][0], 2)]


def test_numbers_may_be_text(tmp_path):
    reviews = lines(review_2014(rating="4.0") | {"unixReviewTime": "1296000000"})
    row = read(tmp_path, "2014", reviews).interactions.iloc[0]
    assert (row["rating"], row["timestamp"]) == (4.0, 1_296_000_000)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"reviewerID": "A1", ',
        b"[]",
        b"5",
        b"\xff\xfe",
        b'{"reviewerID": "\xe9"}',
        b"[" * 100_000,
        b"{'a': " + b"[" * 100_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b"{'a': __import__('os')}",
        b"{'a': {[]: 1}}",
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_bad_lines_are_reported_with_their_number(tmp_path, bad, number):
    raw = [lines(review_2014(), review_2014("A2")), literals(metadata_2014(), metadata_2014("B"))]
    raw[number] += bad + b"\n"
    report = read(tmp_path, "2014", *raw).report
    assert report["dropped" if number == 0 else "skipped"] == {"malformed_line": 1}
    assert reasons(report, "malformed_line") == [(NAMES["2014"][number], 3)]


def test_bad_lines_of_both_files_have_examples_of_their_own(tmp_path):
    reviews = lines(*(review_2014(f"A{n}") for n in range(150)), *["x"] * 120)
    metadata = literals(*(metadata_2014(f"B{n}") for n in range(150)), metadata_2014())
    report = read(tmp_path, "2014", reviews, metadata + b"y\n" * 120).report
    assert report["dropped"] == report["skipped"] == {"malformed_line": 120}
    found = [file for file, _ in reasons(report, "malformed_line")]
    assert [found.count(name) for name in NAMES["2014"]] == [100, 100]


@pytest.mark.parametrize("form", FORMS)
def test_duplicates_of_user_item_and_time_are_dropped(tmp_path, form):
    same = REVIEW[form](rating=5.0)
    others = REVIEW[form]("A2"), REVIEW[form](item="B2")
    later = REVIEW[form]() | {KEYS[form]["time"]: 1_600_000_000_000}
    again = REVIEW[form](rating=1.0)
    result = read(tmp_path, form, lines(same, *others, later, again))
    assert result.report["dropped"] == {"duplicate_review": 1}
    assert reasons(result.report, "duplicate_review") == [(NAMES[form][0], 5)]
    assert result.interactions["rating"].tolist() == [5.0] * 4


@pytest.mark.parametrize("form", FORMS)
def test_items_without_metadata_are_kept_with_missing_text(tmp_path, form):
    result = read(tmp_path, form, lines(REVIEW[form](), REVIEW[form](item="B2")))
    assert result.interactions[TEXTS].isna().all(axis=1).tolist() == [False, True]
    assert result.report["repaired"] == {"item_id_is_not_in_its_file": 1}
    assert reasons(result.report, "item_id_is_not_in_its_file") == [(NAMES[form][0], 2)]


def test_chunks_change_nothing(tmp_path, monkeypatch):
    """Blocks of the file, and chunks of rows, cut anywhere."""
    reviews = lines(*(review_2014(f"A{n}", rating=n % 5 + 1) for n in range(50)))
    expected = read(tmp_path, "2014", reviews)
    monkeypatch.setattr("clickprompt.readers.formats.records.CHUNK_ROWS", 7)
    for size in (1, 13, 1000):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        found = read(tmp_path, "2014", reviews)
        assert found.interactions.equals(expected.interactions)
        # a byte order mark is looked for in the first block
        assert found.report == expected.report


def test_line_ends_blank_lines_and_byte_order_mark(tmp_path):
    raw = b"\xef\xbb\xbf" + lines(review_2014(), "", review_2014("A2")).replace(b"\n", b"\r\n")
    report = read(tmp_path, "2014", raw + b"\n\n").report
    assert report["rows_kept"] == 2
    assert report["skipped"] == {"blank_line": 1}
    assert report["repaired"] == {"byte_order_mark": 1}


def test_a_last_line_without_its_end(tmp_path):
    report = read(tmp_path, "2014", lines(review_2014(), review_2014("A2"))[:-1]).report
    assert report["rows_kept"] == 2
    assert report["repaired"] == {"no_final_line_end": 1}


# --- files that cannot be used as a whole ------------------------------------------------------


def test_file_not_given(tmp_path):
    message = r"files must hold one file of reviews and one of metadata, .* meta_, got a\.json"
    with pytest.raises(ValueError, match=message):
        read_interactions({"a.json": tmp_path / "a.json"}, DATA)
    with pytest.raises(ValueError, match=r"files must hold one file of .*, got none"):
        read_interactions({}, DATA)


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"  \r\n"])
@pytest.mark.parametrize("number", [0, 1])
def test_empty_file(tmp_path, raw, number):
    given = [lines(review_2014()), literals(metadata_2014())]
    given[number] = raw
    with pytest.raises(ValueError, match="must hold rows, got an empty file"):
        read(tmp_path, "2014", *given)


@pytest.mark.parametrize("cut", [5, 20, -4])
@pytest.mark.parametrize("number", [0, 1])
def test_truncated_gzip(tmp_path, cut, number):
    given = [lines(review_2014()), literals(metadata_2014())]
    given[number] = gzip.compress(given[number])[:cut]
    name = NAMES["2014"][number].replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"{name} must be a whole gzip file, got a damaged one"):
        read(tmp_path, "2014", *given)


@pytest.mark.parametrize("number", [0, 1])
def test_truncated_file(tmp_path, number):
    given = [lines(review_2014(), review_2014()), literals(metadata_2014(), metadata_2014("B"))]
    given[number] = given[number][:-30]
    with pytest.raises(ValueError, match=r"must end with a whole line, got a truncated .* line 2"):
        read(tmp_path, "2014", *given)


def test_utf16(tmp_path):
    with pytest.raises(ValueError, match="must be utf-8 text, got UTF-16 or binary data"):
        read(tmp_path, "2014", lines(review_2014()).decode().encode("utf-16"))


def test_other_keys(tmp_path):
    message = (
        r"reviews_Toys_and_Games\.json must have the keys reviewerID, asin, overall, "
        r"unixReviewTime or user_id, parent_asin, rating, timestamp in its first 100 lines, "
        r"got 'userId, stars'"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "2014", lines({"userId": 1, "stars": 5}))


def test_reviews_and_metadata_of_two_forms(tmp_path):
    message = (
        r"reviews and metadata must be of the same form, got Toys_and_Games\.jsonl of 2023 and "
        r"meta_Toys_and_Games\.jsonl of 2018"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "2023", lines(review_2023()), lines(metadata_2018()))


def test_metadata_of_another_category(tmp_path):
    with pytest.raises(ValueError, match=r"must describe the items of .*, got none of them among"):
        read(tmp_path, "2014", lines(review_2014()), literals(metadata_2014("B9")))


def test_most_lines_unusable_means_another_format(tmp_path):
    message = r"must be in its published format, got 2 of 3 rows that cannot be used .*line 2: 'x'"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "2014", lines(review_2014(), "x", "x"))
    with pytest.raises(ValueError, match="meta_" + NAMES["2014"][1][5:] + " " + message):
        read(tmp_path, "2014", lines(review_2014()), literals(metadata_2014()) + b"x\nx\n")


def test_a_file_without_line_ends_stops_early(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "LONGEST_LINE_BYTES", 1000)
    with pytest.raises(ValueError, match="must hold one record a line, got more than 1000 bytes"):
        read(tmp_path, "2014", b"x" * 5000)


# --- fuzzing -------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2)), max_size=3),
    st.dictionaries(st.sampled_from(["Brand", "x"]), st.text(max_size=3), max_size=2),
)
MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check_fuzzed(folder: Path, form: str, raw: list[bytes], reviews: bytes) -> None:
    """A table and a report that account for every line, or a message; ``reviews`` unpacked."""
    error: ValueError | None = None
    try:
        result = read(folder, form, *raw)
    except ValueError as caught:
        error = caught
    if error is not None:
        assert type(error) is ValueError, repr(error)  # no decoder's own error
        assert re.search(r"(?s) must .*, got ", str(error))
        return
    table, report = result.interactions, result.report
    whole = reviews.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert report["rows_read"] == sum(bool(line.strip()) for line in whole)
    assert table["row"].tolist() == list(range(len(table)))
    assert table[["user_id", "item_id", "rating", "timestamp"]].notna().all(axis=None)
    assert table["rating"].between(1, 5).all()
    json.dumps(report, ensure_ascii=False).encode()


@MANY
@given(
    form=st.sampled_from(FORMS),
    number=st.integers(0, 1),
    key=st.integers(0, 9),
    value=CELLS,
    absent=st.booleans(),
)
def test_any_value_under_any_key(tmp_path, form, number, key, value, absent):
    records = [[REVIEW[form](f"A{n}") for n in range(3)], [METADATA[form](f"B{n}") for n in "12"]]
    records[1].append(METADATA[form]())
    record = records[number][1]
    name = list(record)[key % len(record)]
    if absent:
        del record[name]
    else:
        record[name] = value
    write = lines if number == 0 or form != "2014" else literals
    raw = [lines(*records[0]), WRITE[form](*records[1])]
    raw[number] = write(*records[number])
    check_fuzzed(tmp_path, form, raw, raw[0])


@MANY
@given(
    form=st.sampled_from(FORMS),
    number=st.integers(0, 1),
    packed=st.booleans(),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=6)), max_size=4
    ),
)
def test_any_bytes_anywhere(tmp_path, form, number, packed, edits):
    raw = [
        lines(*(REVIEW[form](f"A{n}") for n in range(4))),
        WRITE[form](METADATA[form](), METADATA[form]("B1"), METADATA[form]("B2")),
    ]
    damaged = gzip.compress(raw[number], mtime=0) if packed else raw[number]
    for place, removed, inserted in edits:
        at = int(place * len(damaged))
        damaged = damaged[:at] + inserted + damaged[at + removed :]
    if packed and damaged[:2] != b"\x1f\x8b":
        return  # then it is read as plain text: the other branch
    # gzip's checksum finds every change of the content
    reviews = damaged if number == 0 and not packed else raw[0]
    raw[number] = damaged
    check_fuzzed(tmp_path, form, raw, reviews)
