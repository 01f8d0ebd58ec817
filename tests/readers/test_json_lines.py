"""Blocks of JSON lines parsed inside Arrow: the same as line by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clickprompt.readers.formats import json_lines
from clickprompt.readers.formats import line_blocks as blocks
from clickprompt.readers.formats.json_lines import read_columns, read_records
from clickprompt.readers.report import ReadReport

SCHEMA = pa.schema({"id": pa.large_string(), "n": pa.float64(), "yes": pa.bool_()})


def cells(number: int, record: dict[str, Any]) -> tuple[Any, ...] | str:
    """Only what Arrow takes too."""
    found = tuple(record.get(key) for key in SCHEMA.names)
    for value, kind in zip(found, (str, float, bool), strict=True):
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if value is not None and not isinstance(value, kind):
            return "another_type"
    try:
        return tuple(pa.array([v], f.type)[0].as_py() for v, f in zip(found, SCHEMA, strict=True))
    except (ValueError, OverflowError):
        return "another_type"


def read(path: Path) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    report = ReadReport()
    rows = []
    for table in read_columns({"a": path}, "a", SCHEMA, cells, kind="dropped", report=report):
        columns = [table[key].to_pylist() for key in SCHEMA.names]
        rows += zip(table.lines.tolist(), *columns, strict=True)
        assert [table[key].type for key in SCHEMA.names] == SCHEMA.types
    report.rows_kept = len(rows)
    return rows, report.as_dict()


def outcome(path: Path) -> Any:
    try:
        rows, report = read(path)
    except ValueError as error:
        return str(error)
    # as text, for NaN is not equal to itself; -0 is 0.0 to one parser and -0.0 to the other
    return repr(rows).replace("-0.0,", "0.0,"), report


def test_published_lines_are_parsed_inside_arrow(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_records", None)  # what reads line by line
    path = tmp_path / "a.gz"
    records = [{"id": "ü", "n": n, "yes": n > 1, "other": [{"a": "}\n{"}]} for n in range(3)]
    raw = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in [*records, {}]).encode()
    path.write_bytes(gzip.compress(raw))
    rows, report = read(path)
    assert rows == [(1, "ü", 0, False), (2, "ü", 1, False), (3, "ü", 2, True), (4, *[None] * 3)]
    assert (report["rows_read"], report["rows_kept"]) == (4, 4)


LINES = [
    '{"id": "a", "n": 1, "yes": true}', '{"n": 4.5}', "{}", '{"id": null, "n": null}', "[]", "5",
    "", '{"id": 5}', '{"id": "\\ud83d"}', '{"x": "\\ud83d"}', '{"id": "\\ud83d\\ude00"}',
    '{"n": "1"}', '{"n": true}', '{"n": NaN}', '{"n": -Infinity}', '{"n": 1e999}',
    '{"n": 1, "n": 2}',
    '{"x": 1, "x": 2}', "{}{}", '{"id":', '"b"}', '{"x": {}', "}", '{"id": "}', '{"}', '{"n": 01}',
    '{"n": 1.}', '{"n": -0}', '{"id": "a\\u0000b"}', '{"id": "a\tb"}', '{"id": "\\x41"}', "{} ",
    '{"yes": 1}', '{"x": [1, "a", {}]}', '{"n": 1,}', "{'id': 'a'}", '{"id": "2013-01-01"}', " {}",
    '{"id": "é"}', "{}\r", "\ufeff{}", '{"": 1, "n": 2}', '{"id": {"a": 1}}', '{"n": 3}x', "\x0b{}",
]  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from(LINES), min_size=1, max_size=6),
    st.booleans(),
    st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)),
)
@example(["{}{}", '{"n":', "1}"], True, (1.0, 0, b""))
@example(['{"id": "}', '{"}'], True, (1.0, 0, b""))
def test_as_line_by_line(tmp_path, texts, ends_whole, edit):
    raw = "\n".join(texts).encode("utf-8", "surrogatepass") + b"\n" * ends_whole
    at = int(edit[0] * len(raw))
    path = tmp_path / "a"
    path.write_bytes(raw[:at] + edit[2] + raw[at + edit[1] :])
    found = outcome(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_plain_block", lambda block, schema: None)
        assert found == outcome(path)


def test_a_value_of_any_depth_under_another_key_is_no_matter(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b'{"id": "a", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n")
    assert read(path)[0] == [(1, "a", None, None)]


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_line_numbers_in_blocks_of_any_size(tmp_path, monkeypatch, size):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    texts = ['{"id": "a"}', "", '{"id": "b"}', "x", '{"id": 5}', '{"id": "c"}', "", ""]
    path = tmp_path / "a"
    path.write_bytes("".join(f"{text}\n" for text in texts).encode())
    rows, report = read(path)
    assert [row[:2] for row in rows] == [(1, "a"), (3, "b"), (6, "c")]
    assert report["dropped"] == {"malformed_line": 1, "another_type": 1}
    assert [(e["line"], e["reason"]) for e in report["examples"]] == [
        (2, "blank_line"), (4, "malformed_line"), (5, "another_type"),
    ]  # fmt: skip
    records = read_records({"a": path}, "a", kind="skipped", report=ReadReport())
    assert [(number, record["id"]) for number, _, record in records] == [
        (1, "a"), (3, "b"), (5, 5), (6, "c"),
    ]  # fmt: skip
