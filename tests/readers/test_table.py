"""The reader of the user's own tables: every trap by name, and against Python's csv module."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.parameters import DataParameters
from clickprompt.readers import read_interactions, stream_interactions
from clickprompt.readers.table import delimited
from tests.readers.tables import (
    CRITEO_COLUMNS,
    avazu,
    criteo,
    criteo_row,
    fields,
    parameters,
    read,
)

# --- cells stay as they are -------------------------------------------------------------


def test_categories_stay_text(tmp_path):
    cells = ["007", "1e5", "68fd1e64", "12345678901234567890123", "1.0", " x ", "true", "nan"]
    raw = "label,a\n" + "".join(f"1,{cell}\n" for cell in cells)
    table = read(tmp_path, raw.encode()).interactions
    assert table["a"].tolist() == cells
    assert table["row"].tolist() == list(range(len(cells)))
    assert table["label"].dtype == "float64"


def test_only_named_columns_are_read_in_any_order(tmp_path):
    table = read(tmp_path, b"x,a,y,label\n9,p,9,1\n9,q,9,0\n").interactions
    assert list(table.columns) == ["row", "label", "a"]
    assert table["a"].tolist() == ["p", "q"]


def test_numbers_empty_cells_and_cells_that_are_no_number(tmp_path):
    cells = ["3", "-2", "", "1e3", " 4.5 ", "+6", "x", "nan", "inf", "1_000", "0x10"]
    raw = "label,a\n" + "".join(f"1,{cell}\n" for cell in cells)
    result = read(tmp_path, raw.encode(), fields=fields(a="numeric"))
    values = [None if math.isnan(v) else v for v in result.interactions["a"]]
    assert values == [3, -2, None, 1000, 4.5, 6, None, None, None, None, None]
    assert result.report["repaired"] == {"a_is_not_a_number": 5}  # the empty cell is just missing
    assert [e["line"] for e in result.report["examples"]] == [8, 9, 10, 11, 12]


def test_decimal_comma(tmp_path):
    raw = b"label;a\n1;3,5\n1;-0,25\n1;1.234\n"
    result = read(
        tmp_path, raw, fields=fields(a="numeric"), table={"delimiter": ";", "decimal": ","}
    )
    assert result.interactions["a"].tolist()[:2] == [3.5, -0.25]
    assert result.report["repaired"] == {"a_is_not_a_number": 1}


def test_texts_that_mean_missing(tmp_path):
    raw = b"label,a,b\n1,NULL,NULL\n0,\\N,\\N\n,x,1\nNULL,x,1\n"
    result = read(
        tmp_path,
        raw,
        fields=fields("a", b="numeric"),
        table={"missing": ["", "NULL", "\\N"]},
    )
    assert result.interactions["a"].isna().all()
    assert result.interactions["b"].isna().all()
    assert result.report["dropped"] == {"label_is_missing": 2}
    assert result.report["repaired"] == {}


def test_labels(tmp_path):
    raw = b"label,a\n1,x\n0,x\n4.5,x\nTrue,x\nfalse,x\nwon,x\nlost,x\n,x\nmaybe,x\nnan,x\n"
    result = read(tmp_path, raw, table={"label_values": {"won": 1, "lost": -1}})
    assert result.interactions["label"].tolist() == [1, 0, 4.5, 1, 0, 1, -1]
    assert result.report["dropped"] == {"label_is_missing": 1, "label_is_not_a_number": 2}
    assert [e["line"] for e in result.report["examples"]] == [9, 10, 11]


def test_a_missing_user_is_kept_and_reported(tmp_path):
    raw = b"label,a,u\n1,x,\n0,y,007\n"
    result = read(tmp_path, raw, user="u")
    assert result.interactions["u"].tolist()[1] == "007"
    assert result.interactions["u"].isna().tolist() == [True, False]
    assert result.report["repaired"] == {"u_is_missing": 1}


def test_split_column_and_multi_valued_cells_stay_text(tmp_path):
    raw = b"label,a,s\n1,x|y,tr\n0,,te\n"
    data = {
        "fields": fields(a="multi_valued"),
        "split": {"by": "column", "column": "s", "names": ["tr", "va", "te"]},
    }
    table = read(tmp_path, raw, **data).interactions
    assert table["s"].tolist() == ["tr", "te"]
    assert table["a"].tolist()[0] == "x|y"
    assert table["a"].isna().tolist() == [False, True]


# --- time -------------------------------------------------------------------------------


def seconds(*parts: int) -> int:
    return int(datetime.datetime(*parts, tzinfo=datetime.UTC).timestamp())


@pytest.mark.parametrize(
    ("cell", "table", "expected"),
    [
        ("978300760", {}, 978300760),
        ("978300760.9", {}, 978300760),
        ("-1", {}, -1),
        ("+978300760", {}, 978300760),
        ("1400000000123456789", {"time_unit": "ns"}, 1400000000),
        ("9999999999999999999", {"time_unit": "ns"}, 9999999999 + 1),  # beyond 64 bits: a float
        ("978300760999", {"time_unit": "ms"}, 978300760),
        ("-1", {"time_unit": "ms"}, -1),
        ("2014-10-21", {}, seconds(2014, 10, 21)),
        ("2014-10-21 13:05", {}, seconds(2014, 10, 21, 13, 5)),
        ("2014-10-21T13:05:07.25", {}, seconds(2014, 10, 21, 13, 5, 7)),
        ("2014-10-21T13:05:07Z", {}, seconds(2014, 10, 21, 13, 5, 7)),
        ("2014-10-21T13:05:07+02:00", {}, seconds(2014, 10, 21, 11, 5, 7)),
        ("14102113", {"time_format": "%y%m%d%H"}, seconds(2014, 10, 21, 13)),
        ("3.2.2014", {"time_format": "%d.%m.%Y"}, seconds(2014, 2, 3)),
        ("21/10/14 13:05:07.5", {"time_format": "%d/%m/%y %H:%M:%S.%f"},
         seconds(2014, 10, 21, 13, 5, 7)),
        ("Fri Apr 19 08:15:15 -0700 2013", {"time_format": "%a %b %d %H:%M:%S %z %Y"},
         seconds(2013, 4, 19, 15, 15, 15)),
    ],
)  # fmt: skip
def test_forms_of_time(tmp_path, cell, table, expected):
    # among cells of other forms, each must find its own way
    raw = f"label,a,t\n1,x,{cell}\n0,x,\n0,x,soon\n".encode()
    result = read(tmp_path, raw, time="t", table=table)
    assert result.interactions["t"].tolist()[0] == expected
    assert result.interactions["t"].isna().tolist() == [False, True, True]
    assert result.report["repaired"] == {"t_is_no_time": 1}
    assert result.report["dropped"] == {}


def test_a_day_that_does_not_exist_is_no_time(tmp_path):
    raw = b"label,a,t\n1,x,31.02.2014\n0,x,01.03.2014\n1,x,29.02.2012\n1,x,29.02.2014\n"
    result = read(tmp_path, raw, time="t", table={"time_format": "%d.%m.%Y"})
    assert result.interactions["t"].isna().tolist() == [True, False, False, True]
    assert result.report["repaired"] == {"t_is_no_time": 2}


def test_a_split_by_time_drops_rows_without_time(tmp_path):
    raw = b"label,a,t\n1,x,5\n0,x,\n0,x,soon\n1,x,7\n"
    result = read(tmp_path, raw, time="t", split={"by": "time"})
    assert result.interactions["t"].tolist() == [5, 7]
    assert result.interactions["t"].dtype == "int64"
    assert result.report["dropped"] == {"t_is_missing": 1, "t_is_no_time": 1}
    assert result.report["repaired"] == {}


def test_parts_of_the_time_are_columns(tmp_path):
    stamps = ["1969-12-31 23:00", "1970-01-01 00:30", "2014-10-21 13:00", "2024-02-29 23:59", ""]
    raw = "label,a,t\n" + "".join(f"1,x,{stamp}\n" for stamp in stamps)
    data = {"time": "t", "fields": fields("t:hour", "t:weekday")}
    table = read(tmp_path, raw.encode(), **data).interactions
    known = [datetime.datetime.fromisoformat(stamp) for stamp in stamps[:-1]]
    assert table["t:hour"].tolist()[:4] == [str(time.hour) for time in known]
    assert table["t:weekday"].tolist()[:4] == [time.strftime("%A") for time in known]
    assert table[["t:hour", "t:weekday"]].isna().iloc[4].all()
    numeric = {"time": "t", "fields": [{"column": "t:hour", "name": "hour", "kind": "numeric"}]}
    assert read(tmp_path, raw.encode(), **numeric).interactions["t:hour"].tolist()[2] == 13.0


@pytest.mark.parametrize("form", ["%Q-%m", "plain"])
def test_a_time_format_that_cannot_be_read(tmp_path, form):
    message = f"data.table.time_format must be made of the signs of strptime, .*got '{form}'"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, b"label,a,t\n1,x,5\n", time="t", table={"time_format": form})


# --- the published layouts --------------------------------------------------------------


def test_criteo(tmp_path):
    raw = criteo(8) + criteo_row(1, ["-1"] * 13, ["00000000"] * 26).encode() + b"\n"
    kinds = {c: "numeric" if c[0] == "I" else "categorical" for c in CRITEO_COLUMNS[1:]}
    table = {"delimiter": "\t", "quote": None, "columns": CRITEO_COLUMNS}
    result = read(tmp_path, raw, fields=fields(**kinds), table=table)
    frame = pd.read_csv(io.BytesIO(raw), sep="\t", names=CRITEO_COLUMNS, dtype=str)
    assert result.report["rows_read"] == result.report["rows_kept"] == 9
    assert result.report["repaired"] == {}
    for column, kind in kinds.items():
        expected = frame[column].astype(float) if kind == "numeric" else frame[column]
        found = result.interactions[column]
        assert found.equals(expected.astype(found.dtype))
    assert result.interactions["C26"].tolist()[-1] == "00000000"


def test_avazu(tmp_path):
    data = {
        "user": "device_ip",
        "item": "app_id",
        "time": "hour",
        "label": {"column": "click", "positive_from": 1, "negative_to": 0},
        "fields": fields("hour:hour", "hour:weekday", "C1", "site_id", C14="numeric"),
        "split": {"by": "time"},
        "table": {"time_format": "%y%m%d%H"},
    }
    table = read(tmp_path, avazu(48), **data).interactions
    assert table["hour"].tolist() == [seconds(2014, 10, 21, row // 2) for row in range(48)]
    assert table["hour:hour"].tolist() == [str(row // 2) for row in range(48)]
    assert set(table["hour:weekday"]) == {"Tuesday"}
    assert set(table["C1"]) == {"1005"}
    assert table["C14"].tolist()[:3] == [15700.0, 15701.0, 15702.0]


# --- lines that are no rows -------------------------------------------------------------


def test_lines_with_another_number_of_cells_are_dropped_with_their_line(tmp_path):
    raw = b"label,a\n1,x\n1\n\n0,y,z\n1,w\n"
    result = read(tmp_path, raw)
    assert result.interactions["a"].tolist() == ["x", "w"]
    assert result.report["dropped"] == {"wrong_number_of_cells": 2}
    assert result.report["skipped"] == {"blank_line": 1}
    found = {(e["line"], e["text"]) for e in result.report["examples"]}
    assert found == {(3, "1"), (4, ""), (5, "0,y,z")}


def test_quotes(tmp_path):
    raw = b'label,a\n1,"x,y"\n0,"say ""hi"""\n1,"two\r\nlines"\n0,5" disk\n"1",""\n0,"a"b\n1,z\n'
    result = read(tmp_path, raw)
    cells = ["x,y", 'say "hi"', "two\r\nlines", '5" disk', None, "z"]
    assert [None if pd.isna(v) else v for v in result.interactions["a"]] == cells
    assert result.report["dropped"] == {"misplaced_quote": 1}
    assert [e["line"] for e in result.report["examples"]] == [8]


def test_a_lost_quote_costs_one_row(tmp_path):
    lines = [f'{row % 2},"cell {row}"\n' for row in range(50)]
    lines[20] = '0,"cell 20\n'
    result = read(tmp_path, ("label,a\n" + "".join(lines)).encode())
    assert result.report["rows_kept"] == 49
    assert result.report["dropped"] == {"misplaced_quote": 1}
    assert [e["line"] for e in result.report["examples"]] == [22]


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path):
    lines = [f"{row % 2},cell {row}\n" for row in range(50)]
    lines[20] = '0,"cell 20\n'
    result = read(tmp_path, ("label,a\n" + "".join(lines)).encode())
    assert result.report["rows_kept"] == 49
    assert result.report["dropped"] == {"misplaced_quote": 1}


def test_quotes_that_mean_nothing(tmp_path):
    table = {"quote": None, "delimiter": "\t"}
    result = read(tmp_path, b'label\ta\n1\t"x\n0\ty"\n', table=table)
    assert result.interactions["a"].tolist() == ['"x', 'y"']


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends(tmp_path, end):
    raw = end.join([b"label,a", b"1,x", b"0,", b"", b"q,z", b""])
    result = read(tmp_path, raw)
    assert result.interactions["label"].tolist() == [1, 0]
    assert [(e["line"], e["reason"]) for e in result.report["examples"]] == [
        (4, "blank_line"),
        (5, "label_is_not_a_number"),
    ]


def test_byte_order_mark_and_missing_last_line_end(tmp_path):
    result = read(tmp_path, b"\xef\xbb\xbflabel,a\n1,x")
    assert result.interactions["a"].tolist() == ["x"]
    assert result.report["repaired"] == {"byte_order_mark": 1, "no_final_line_end": 1}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8-sig", "shift_jis"])
def test_other_encodings(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 7)  # characters are cut in two
    word = "日本" if encoding == "shift_jis" else "Müller"
    raw = f"label,a\n1,{word}\n0,{word}{word}\n".encode(encoding)
    if encoding == "utf-8-sig":
        encoding = "utf-8"
    result = read(tmp_path, raw, table={"encoding": encoding})
    assert result.interactions["a"].tolist() == [word, word * 2]


@pytest.mark.parametrize(
    ("raw", "table", "message"),
    [
        (b"", {}, r"must hold rows, got an empty file"),
        (b"\r\n\n", {}, r"must hold rows, got an empty file"),
        (b"label,a\n", {}, r"must hold at least one row, got none"),
        (b"label,a\n\n\n", {}, r"must hold at least one row, got none"),
        (b"label,a\n1,x\n0", {}, r"truncated file: line 3 has a wrong number of cells: '0'"),
        (b'label,a\n1,x\n0,"y', {}, r"truncated file: line 3 has a misplaced quote: '0,\"y'"),
        (b"label,a\n1,x\n0,\xfcber\n", {}, r"must be utf-8 text, got byte 0xfc in line 3: '0,ü"),
        (b"label,a\n1,x\n0,\xfcber", {}, r"must be utf-8 text, got byte 0xfc in line 3"),
        (b"label,a\n1,\x81\n", {"encoding": "cp1252"}, r"cp1252 text, got byte 0x81 in line 2"),
        (b"label,a\n1,x\n\x00", {"encoding": "utf-16"}, r"must be utf-16 text, got "),
        ("label,a\n1,x\n".encode("utf-16"), {}, r"got UTF-16 .*data.table.encoding: utf-16 reads"),
        (b"\x00\x01\x02", {}, r"must be utf-8 text, got UTF-16 or binary data"),
        (gzip.compress(b"label,a\n1,x\n" * 99)[:-9], {}, r"must be a whole gzip file, got a "),
        (b"label,a\n,x\n,y\n", {}, r"can be used, got 2 of 2 .*label_is_missing 2.*line 2"),
        (b"label,a\n1,x,y\n1,x,y\n0,x\n", {}, r"rows of 2 cells \(label, a\).*line 2: '1,x,y'"),
        (b"1;x\n1;x\n", {"columns": ["label", "a"]}, r"data.table.delimiter seems to be ';'"),
        (b"label,a\n1,x\n", {"columns": ["label", "a"]}, r"no header where data.table.columns"),
        (b'"label,a\n1,x\n', {}, r"must start with a whole row, got '\"label,a'"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, raw, table, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, raw, table=table)
    assert "part0.csv" in str(error.value)


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("clickprompt.readers.table.text_blocks.LONGEST_LINE_BYTES", 100)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 50)
    with pytest.raises(ValueError, match="lines of at most 100 bytes, got a longer one, line 3"):
        read(tmp_path, b"label,a\n1,x\n" + b"y" * 200)


# --- what is asked for ------------------------------------------------------------------


def test_all_columns_that_are_not_there_are_named_before_any_work(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"label,Age,town\n1,2,x\n")
    data = parameters(user="usr", fields=fields("age", "town", "hour:hour"))
    message = (
        r"t\.csv \(label, Age, town\)\n"
        r"  data\.user: got 'usr'\n"
        r"  data\.fields\.0\.column: got 'age'; did you mean 'Age'\?\n"
        r"  data\.fields\.2\.column: got 'hour:hour'"
    )
    with pytest.raises(ValueError, match=message):
        stream_interactions({"t.csv": tmp_path / "t.csv"}, data)


def test_a_derived_column_is_proposed_for_a_misspelt_one(tmp_path):
    with pytest.raises(ValueError, match="got 't:weekdays'; did you mean 't:weekday'"):
        read(tmp_path, b"label,t\n1,5\n", time="t", fields=fields("t:weekdays"))


def test_wrong_delimiter_is_guessed(tmp_path):
    with pytest.raises(ValueError, match=r"data.table.delimiter seems to be tab"):
        read(tmp_path, b"label\ta\n1\tx\n")


def test_a_column_name_that_occurs_twice(tmp_path):
    with pytest.raises(ValueError, match=r"data.fields.0.column: 'a' is the name of 2 columns"):
        read(tmp_path, b"label,a,a\n1,x,y\n")
    table = read(tmp_path, b"label,b,b,a\n1,x,y,z\n").interactions
    assert table["a"].tolist() == ["z"]


def test_the_label_is_no_field(tmp_path):
    with pytest.raises(ValueError, match=r"data.fields must not name the label, got 'label'"):
        read(tmp_path, b"label,a\n1,x\n", fields=fields("a", "label"))


def test_an_id_is_no_number(tmp_path):
    with pytest.raises(ValueError, match=r"must not make data.user numeric.*got 'a'"):
        read(tmp_path, b"label,a\n1,x\n", user="a", fields=fields(a="numeric"))


def test_a_weekday_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="must not make a weekday numeric, got 't:weekday'"):
        read(tmp_path, b"label,t\n1,5\n", time="t", fields=fields(**{"t:weekday": "numeric"}))


def test_no_file():
    with pytest.raises(ValueError, match="files must name at least one file, got none"):
        read_interactions({}, parameters())


def test_options_are_unknown():
    with pytest.raises(ValueError, match=r"data\.options must be empty.*reader table.*got 'x'"):
        read_interactions({}, parameters(options={"x": 1}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader": "bookcrossing", "table": {}}, "table must be null unless reader is 'table'"),
        ({"table": {"delimiter": "::"}}, "must be one ASCII character .*got '::'"),
        ({"table": {"quote": "\n"}}, "must be one ASCII character and no line end"),
        ({"table": {"quote": ","}}, "delimiter and quote must differ, got ','"),
        ({"table": {"encoding": "utf-9"}}, "an encoding that Python knows.*got 'utf-9'"),
        ({"table": {"columns": ["a", "a"]}}, r"different names, got \['a'\] more than once"),
    ],
)
def test_parameters_of_a_table(changes, message):
    with pytest.raises(ValueError, match=message):
        parameters(**changes)


# --- several files, packed files, Parquet -----------------------------------------------


def test_several_files_follow_each_other(tmp_path):
    parts = (b"label,a\n1,x\nq,y\n", gzip.compress(b"a,label\nz,0\n"))
    result = read(tmp_path, *parts)
    assert result.interactions["row"].tolist() == [0, 1]
    assert result.interactions["a"].tolist() == ["x", "z"]
    assert set(result.report["files"]) == {"part0.csv", "part1.csv"}
    assert result.report["examples"][0]["file"] == "part0.csv"


def test_files_of_two_formats(tmp_path):
    pq.write_table(pa.table({"label": [1], "a": ["x"]}), tmp_path / "b.parquet")
    (tmp_path / "a.csv").write_bytes(b"label,a\n1,x\n")
    files = {name: tmp_path / name for name in ("a.csv", "b.parquet")}
    with pytest.raises(ValueError, match=r"all CSV or all Parquet, got a\.csv is CSV, b\.parquet"):
        read_interactions(files, parameters())


def read_parquet(folder, stored: pa.Table, **changes):
    pq.write_table(stored, folder / "t.parquet", row_group_size=2)
    return read_interactions({"t.parquet": folder / "t.parquet"}, parameters(**changes))


PARQUET_CELLS = [
    (pa.array(["007", None, ""]), ["007", None, None]),
    (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
    (pa.array([7, None, -1]), ["7", None, "-1"]),
    (pa.array([2**63 - 1, 0, 1]), ["9223372036854775807", "0", "1"]),
    (pa.array([17.0, None, float("nan")]), ["17", None, None]),
    (pa.array([0.5, 1.0, 1e300]), ["0.5", "1", "1e+300"]),
    (pa.array([True, False, None]), ["true", "false", None]),
    (pa.array([["x", "y"], [], None]), ["x|y", None, None]),
    (pa.array([[1, None, 2], [3], [None]]), ["1|2", "3", None]),
    (pa.array([datetime.date(2014, 10, 21)] * 3), ["2014-10-21"] * 3),
    (pa.array([b"ab", b"c", None]), ["ab", "c", None]),
    (pa.nulls(3), [None, None, None]),
]


@pytest.mark.parametrize(("cells", "expected"), PARQUET_CELLS)
def test_parquet_cells_as_text(tmp_path, cells, expected):
    table = pa.table({"label": [1, 0, 1], "a": cells, "unread": [1, 2, 3]})
    found = read_parquet(tmp_path, table).interactions["a"]
    assert [None if pd.isna(value) else value for value in found] == expected


@pytest.mark.parametrize(
    ("cells", "expected", "bad"),
    [
        (pa.array([1, None, 3]), [1.0, None, 3.0], 0),
        (pa.array([1.5, float("nan"), float("inf")]), [1.5, None, None], 1),
        (pa.array([True, False, None]), [1.0, 0.0, None], 0),
        (pa.array(["1.5", "x", None]), [1.5, None, None], 1),
        (pa.nulls(3), [None, None, None], 0),
    ],
)
def test_parquet_cells_as_numbers(tmp_path, cells, expected, bad):
    table = pa.table({"label": [True, False, True], "a": cells})
    result = read_parquet(tmp_path, table, fields=fields(a="numeric"))
    assert [None if pd.isna(v) else v for v in result.interactions["a"]] == expected
    assert sum(result.report["repaired"].values()) == bad


@pytest.mark.parametrize(
    ("cells", "table"),
    [
        (pa.array([datetime.datetime(2014, 10, 21, 13)] * 2, pa.timestamp("ns")), {}),
        (pa.array([datetime.datetime(2014, 10, 21, 13)] * 2, pa.timestamp("ms", "UTC")), {}),
        (pa.array([14102113] * 2), {"time_format": "%y%m%d%H"}),
        (pa.array([seconds(2014, 10, 21, 13) * 1000] * 2), {"time_unit": "ms"}),
        (pa.array([float(seconds(2014, 10, 21, 13))] * 2), {}),
        (pa.array(["2014-10-21 13:00:00"] * 2), {}),
    ],
)
def test_parquet_times(tmp_path, cells, table):
    stored = pa.table({"label": [1, 0], "a": ["x", "y"], "t": cells})
    found = read_parquet(tmp_path, stored, time="t", split={"by": "time"}, table=table)
    assert found.interactions["t"].tolist() == [seconds(2014, 10, 21, 13)] * 2


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        (pa.array([{"x": 1}]), "categorical", r"column 'a' of .*t\.parquet must hold plain values"),
        (pa.array([[[1]]]), "categorical", "must hold plain values or lists of them"),
        (pa.array([["x"]]), "numeric", "must hold numbers, got list"),
        (pa.array([b"\xff"]), "categorical", "must hold text, got binary"),
    ],
)
def test_parquet_types_that_cannot_be_used(tmp_path, cells, kind, message):
    with pytest.raises(ValueError, match=message):
        read_parquet(tmp_path, pa.table({"label": [1], "a": cells}), fields=fields(a=kind))


def test_parquet_rows_are_counted_and_numbered(tmp_path):
    table = pa.table({"label": [1, None, 0, None, 1], "a": list("vwxyz")})
    result = read_parquet(tmp_path, table)
    assert result.interactions["a"].tolist() == ["v", "x", "z"]
    assert [(e["line"], e["text"]) for e in result.report["examples"]] == [
        (2, "label: None, a: w"),
        (4, "label: None, a: y"),
    ]


@pytest.mark.parametrize("raw", [b"PAR1", b"PAR1 no more PAR1"])
def test_damaged_parquet(tmp_path, raw):
    with pytest.raises(ValueError, match=r"part0\.csv must be a whole Parquet file, got"):
        read(tmp_path, raw)


# --- against csv, and with anything -----------------------------------------------------

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CELL = st.text(alphabet='ab,;"\n\r é0', max_size=6)
ROW = st.tuples(st.sampled_from(["0", "1", "x", ""]), CELL, CELL)


def outcome(folder, raw: bytes, **changes):
    """What was read, or the message why nothing was."""
    try:
        return read(folder, raw, **changes)
    except ValueError as error:
        return str(error)


def is_balanced(report) -> bool:
    return report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())


@settings(FUZZ, max_examples=60)
@given(
    rows=st.lists(ROW, min_size=1, max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    block=st.integers(1, 60),
)
def test_written_tables_are_read_as_the_csv_module_reads_them(
    tmp_path, monkeypatch, rows, quoting, end, block
):
    if any("\r" in cell for row in rows for cell in row):
        quoting = csv.QUOTE_ALL  # else the csv module writes a carriage return without quotes
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerows([("label", "a", "b"), *rows, ("1", "last", "")])
    raw = text.getvalue()
    reader = csv.reader(io.StringIO(raw, newline=""))
    kept, dropped = [], []
    line = 1
    for number, row in enumerate(reader):
        if number:
            if row[0] in ("0", "1"):
                kept.append((float(row[0]), row[1] or None, row[2] or None))
            else:
                dropped.append(line)
        line = reader.line_num + 1
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
    result = read(tmp_path, raw.encode(), fields=fields("a", "b"))
    table = result.interactions
    found = zip(table["label"], table["a"], table["b"], strict=True)
    assert [tuple(None if pd.isna(cell) else cell for cell in row) for row in found] == kept
    assert sorted(e["line"] for e in result.report["examples"]) == dropped


@settings(FUZZ, max_examples=100)
@given(
    body=st.text(alphabet='01a,"\n\r\té', max_size=60),
    block=st.integers(1, 40),
    quote=st.sampled_from(['"', None]),
)
def test_any_text_gives_a_table_or_a_clear_error(tmp_path, monkeypatch, body, block, quote):
    """Nothing is lost, and it does not matter where the blocks end."""
    raw = ("label,a\n1,x\n" + "0,y\n" * 20 + body).encode()
    results = []
    for size in (1 << 20, block):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", size)
        results.append(outcome(tmp_path, raw, table={"quote": quote}))
    first, second = results
    if isinstance(first, str):
        assert "part0.csv" in first
        assert first == second
        return
    report = first.report
    assert is_balanced(report)
    assert report["rows_kept"] == len(first.interactions)
    assert first.interactions.equals(second.interactions)

    def counts(read_report):
        return {k: read_report[k] for k in ("rows_read", "dropped", "repaired", "skipped", "files")}

    assert counts(report) == counts(second.report)
    lines = [sorted((e["line"], e["reason"]) for e in r.report["examples"]) for r in results]
    assert lines[0] == lines[1]


@settings(FUZZ, max_examples=100)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), max_size=5),
    packed=st.booleans(),
)
def test_mutated_files_never_fail_without_a_message(tmp_path, changes, packed):
    raw = avazu(40)
    raw = bytearray(gzip.compress(raw, mtime=0) if packed else raw)
    for position, piece in changes:
        at = position % len(raw)
        raw[at : at + len(piece)] = piece
    data = {
        "user": "device_ip", "time": "hour", "split": {"by": "time"},
        "label": {"column": "click", "positive_from": 1, "negative_to": 0},
        "fields": fields("site_id", C14="numeric"), "table": {"time_format": "%y%m%d%H"},
    }  # fmt: skip
    result = outcome(tmp_path, bytes(raw), **data)
    assert "part0.csv" in result if isinstance(result, str) else is_balanced(result.report)


def test_the_stream_holds_one_block_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1 << 12)
    (tmp_path / "t.csv").write_bytes(b"label,a\n" + b"1,some cell\n0,other\n" * 20_000)
    stream = stream_interactions({"t.csv": tmp_path / "t.csv"}, parameters())
    with pytest.raises(RuntimeError, match="an unread stream"):
        _ = stream.report
    sizes = [batch.num_rows for batch in stream]
    assert sum(sizes) == stream.report["rows_kept"] == 40_000
    assert max(sizes) < 1_000


def test_rows_and_columns_are_those_of_data(tmp_path):
    data = parameters(user="u", item="i", time="t", fields=fields("a", "u"))
    assert isinstance(data, DataParameters)
    (tmp_path / "t.csv").write_bytes(b"t,i,u,a,label\n5,6,7,8,1\n")
    stream = stream_interactions({"t.csv": tmp_path / "t.csv"}, data)
    assert stream.schema.names == ["row", "u", "i", "label", "t", "a"]
    types = [str(kind) for kind in stream.schema.types]
    assert types == ["int64", "string", "string", "double", "int64", "string"]
