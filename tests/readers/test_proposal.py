"""What is guessed of a table: on published layouts, on invented ones, and without a header."""

from __future__ import annotations

import datetime
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clickprompt.readers.table.proposal import Proposal, propose
from clickprompt.readers.table.sniffing import sniff
from tests.readers.tables import CRITEO_COLUMNS, avazu, criteo


def proposal(folder, raw: bytes, **given) -> Proposal:
    path = folder / "table.csv"
    path.write_bytes(raw)
    return propose([path], **given)


def roles(found: Proposal) -> dict[str, str]:
    return {guess.name: guess.kind or guess.role for guess in found.columns}


def table(header: str, *cells: list[object], sign: str = ",") -> bytes:
    rows = zip(*cells, strict=True)
    lines = [header, *(sign.join(map(str, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def test_criteo_has_no_header_no_user_and_no_time(tmp_path):
    found = proposal(tmp_path, criteo(200))
    assert found.table.columns == tuple(CRITEO_COLUMNS)
    assert found.table.delimiter == "\t"
    expected = {"label": "label"}
    expected |= {c: "numeric" if c[0] == "I" else "categorical" for c in CRITEO_COLUMNS[1:]}
    assert roles(found) == expected
    assert found.label == {"column": "label", "positive_from": 1, "negative_to": 0}
    assert found.positive == 0.25
    assert all(guess.missing > 0 for guess in found.fields)


def test_avazu(tmp_path):
    found = proposal(tmp_path, avazu(200))
    kinds = roles(found)
    assert found.table.time_format == "%y%m%d%H"
    assert kinds.pop("id") == kinds.pop("C1") == kinds.pop("C15") == "left out"
    assert kinds.pop("click") == "label"
    assert kinds.pop("hour") == "time"
    assert kinds.pop("device_id") == "user"
    assert {kinds[c] for c in ("site_id", "banner_pos", "app_category", "C14")} == {"categorical"}
    assert found.time_parts == ("hour",)  # all on one Tuesday


N = list(range(60))


@pytest.mark.parametrize(
    ("name", "values", "taken_for"),
    [
        ("zip", [f"{n:05d}" for n in N], "categorical"),
        ("code", [n % 37 for n in N], "categorical"),
        ("age", [20 + n % 40 for n in N], "numeric"),
        ("price", [n / 8 for n in N], "numeric"),
        ("balance", [n * 7 % 60 - 30 for n in N], "numeric"),
        ("floor", [n % 5 for n in N], "categorical"),
        ("hash", [f"{n * 2654435761 % 2**32:08x}" for n in N], "left out"),
        ("colour", [("red", "blue", "1e5")[n % 3] for n in N], "categorical"),
        ("tags", [("a|b", "b|c", "c")[n % 3] for n in N], "multi_valued"),
        ("tags", [("a^b", "b^c")[n % 2] for n in N], "multi_valued"),
        ("review", [f"it was good; it really was the {n}th time" for n in N], "categorical"),
        ("essay", [f"many words {'and more ' * 40}{n}" for n in N], "left out"),
        ("country", ["de"] * 60, "left out"),
        ("empty", [""] * 60, "left out"),
        ("row", [n + 7 for n in N], "left out"),
        ("income", ["" if n % 2 else n * 100 for n in N], "numeric"),
        ("score_2", ["NA" if n % 2 else n * 100 for n in N], "numeric"),
        ("user_id", [n % 7 for n in N], "user"),
        ("CustomerID", [n % 7 for n in N], "user"),
        ("ad", [n % 7 for n in N], "item"),
        ("movieId", [n % 7 for n in N], "item"),
        ("ts", [1_400_000_000 + n for n in N], "time"),
        ("ts", [1_400_000_000_000 + n for n in N], "time"),
        ("viewed", [f"2014-01-{1 + n % 28:02d}T10:00:00Z" for n in N], "time"),
        ("day", [f"{1 + n % 28}/12/2014" for n in N], "time"),
        ("set", [("train", "val", "test")[n % 3] for n in N], "split"),
    ],
)  # fmt: skip
def test_columns(tmp_path, name, values, taken_for):
    found = proposal(tmp_path, table(f"click,{name},other", [n % 2 for n in N], values, "xyz" * 20))
    assert roles(found)[name] == taken_for


@pytest.mark.parametrize(
    ("values", "form", "unit"),
    [
        ([1_400_000_000 + n for n in N], None, "s"),
        ([1_400_000_000_000 + n for n in N], None, "ms"),
        ([f"201410{1 + n % 28:02d}" for n in N], "%Y%m%d", "s"),
        ([f"1410{1 + n % 28:02d}{n % 24:02d}" for n in N], "%y%m%d%H", "s"),
        ([f"{1 + n % 28}.10.2014" for n in N], "%d.%m.%Y", "s"),
        ([f"10/{1 + n % 28}/2014 10:{n:02d}" for n in N], "%m/%d/%Y %H:%M", "s"),
        ([f"2014-10-{1 + n % 28:02d}" for n in N], None, "s"),
    ],
)
def test_forms_of_time(tmp_path, values, form, unit):
    found = proposal(tmp_path, table("click,date,x", [n % 2 for n in N], values, "xyz" * 20))
    assert found.column("time") == "date"
    assert (found.table.time_format, found.table.time_unit) == (form, unit)


def test_a_day_that_may_be_a_month_is_to_be_checked(tmp_path):
    days = [f"{1 + n % 12}/{1 + n % 10}/2014" for n in N]
    found = proposal(tmp_path, table("click,date", [n % 2 for n in N], days))
    (guess,) = (guess for guess in found.columns if guess.role == "time")
    assert guess.why == "times written as %d/%m/%Y (or as %m/%d/%Y: check it)"


@pytest.mark.parametrize(
    ("name", "values", "rule", "words"),
    [
        ("label", [0, 1], (1, 0), {}),
        ("label", [-1, 1], (1, -1), {}),
        ("target", [1, 2], (2, 1), {}),
        ("rating", [1, 2, 3, 4, 5], (4, 3), {}),
        ("rating", [0.5, 1.5, 3.5, 4, 5], (4, 3.5), {}),
        ("stars", list(range(1, 11)), (8, 7), {}),
        ("bought", ["yes", "no"], (1, 0), {"yes": 1.0, "no": 0.0}),
        ("clicked", ["True", "False"], (1, 0), {}),
        ("outcome", ["lost", "won", "lost"], (1, 0), {"lost": 0.0, "won": 1.0}),
        ("outcome", ["stay", "stay", "leave"], (1, 0), {"stay": 0.0, "leave": 1.0}),
        ("anything", [0, 1, 1], (1, 0), {}),
    ],
)
def test_labels(tmp_path, name, values, rule, words):
    cells = [values[n % len(values)] for n in N]
    found = proposal(tmp_path, table(f"x,{name}", ["abcd"[n % 4] for n in N], cells))
    assert found.label == {"column": name, "positive_from": rule[0], "negative_to": rule[1]}
    assert found.table.label_values == words


def test_a_label_by_name_goes_before_other_columns_of_two_values(tmp_path):
    raw = table("sex,click,x", [n % 2 for n in N], [n % 3 // 2 for n in N], "abcd" * 15)
    assert proposal(tmp_path, raw).label["column"] == "click"
    assert proposal(tmp_path, raw, label="sex").label["column"] == "sex"


def test_the_label_is_asked_for(tmp_path):
    raw = table("colour,age", ["abc"[n % 3] for n in N], N)
    with pytest.raises(ValueError, match=r"like a label, got none \(colour, age\): .*--label"):
        proposal(tmp_path, raw)
    assert proposal(tmp_path, raw, label="age").label["column"] == "age"
    with pytest.raises(ValueError, match=r"must be a column of .*table\.csv, got 'aeg'"):
        proposal(tmp_path, raw, label="aeg")
    with pytest.raises(ValueError, match="must be numbers or two words, got 'colour' with 3"):
        proposal(tmp_path, raw, label="colour")


@pytest.mark.parametrize("sign", [",", "\t", ";", "|", "^"])
@pytest.mark.parametrize("header", [True, False])
def test_delimiter_and_header(tmp_path, sign, header):
    lines = [f"{n % 2}{sign}user {n}{sign}{n * 0.5}" for n in N]
    if header:
        lines.insert(0, sign.join(["label", "name", "amount"]))
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = sniff(tmp_path / "t.csv")
    assert found.delimiter == sign
    assert found.columns == (None if header else ("column_1", "column_2", "column_3"))


def test_commas_inside_quotes_do_not_part(tmp_path):
    lines = ["label;text", *(f'{n % 2};"a, b, c, {n}; d"' for n in N)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = sniff(tmp_path / "t.csv")
    assert (found.delimiter, found.quote) == (";", '"')


def test_quotes_that_mean_nothing(tmp_path):
    lines = ["label\ttext", *(f'{n % 2}\t"word {n}' for n in N)]
    (tmp_path / "t.tsv").write_text("\n".join(lines))
    assert sniff(tmp_path / "t.tsv").quote is None


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_encoding(tmp_path, encoding):
    raw = "label,ville\n1,Orléans\n0,Nîmes\n".encode(encoding)
    (tmp_path / "t.csv").write_bytes(gzip.compress(raw))
    assert sniff(tmp_path / "t.csv").encoding == encoding
    found = propose([tmp_path / "t.csv"])
    assert found.columns[1].examples == ("Nîmes", "Orléans")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "must hold rows, got an empty file"),
        (b"one\ntwo\n", "must have at least two columns between one of .*got 'one'"),
        (gzip.compress(b"label,a\n1,2\n", mtime=0)[:-6], "must be a whole gzip file"),
        (b"\x00\x01\x02\x03", "must be utf-8 text, got UTF-16 or binary data"),
        (b"label,a\n", "must hold at least one row"),
        (b"label,a\n1,x\n0,x\n", "must have a column beside the label that varies, got none"),
    ],
)
def test_files_that_say_nothing(tmp_path, raw, message):
    with pytest.raises(ValueError, match=message):
        proposal(tmp_path, raw)


def test_parquet(tmp_path):
    stored = pa.table(
        {
            "clicked": [True, False] * 30,
            "user": pa.array([n % 7 for n in N]),
            "seen": [datetime.datetime(2014, 1, 1 + n % 28) for n in N],
            "changed": [datetime.datetime(2014, 1, 1)] * 59 + [datetime.datetime(2015, 1, 1)],
            "tags": [["a", "b"] if n % 2 else ["c"] for n in N],
            "place": [{"x": n} for n in N],
            "size": pa.array([n / 7 for n in N]),
        }
    )
    pq.write_table(stored, tmp_path / "t.parquet")
    assert roles(propose([tmp_path / "t.parquet"])) == {
        "clicked": "label",
        "user": "user",
        "seen": "time",
        "changed": "left out",
        "tags": "multi_valued",
        "place": "left out",
        "size": "numeric",
    }


def test_files_of_different_columns(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"label,a\n1,x\n0,y\n")
    (tmp_path / "b.csv").write_bytes(b"label,b\n1,x\n0,y\n")
    with pytest.raises(ValueError, match=r"same columns, got other ones in .*b\.csv than .*: a, b"):
        propose([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_column_names_that_occur_twice_are_left_out(tmp_path):
    found = proposal(tmp_path, b"label,a,b,b\n1,x,1,2\n0,y,1,2\n")
    assert found.sample.repeated == ("b",)
    assert [guess.name for guess in found.columns] == ["label", "a"]
