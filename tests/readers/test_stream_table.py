"""A file with a header as a stream of tables: the same as the whole file at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.readers.formats import line_blocks as blocks
from clickprompt.readers.formats.text_table import TextTable, read_table, stream_table
from clickprompt.readers.report import ReadReport

COLUMNS = ("b", "a")


def streamed(path: Path) -> tuple[list[tuple[Any, ...]], ReadReport]:
    report = ReadReport()
    tables = stream_table({"f": path}, "f", COLUMNS, separator=",", kind="dropped", report=report)
    return [row for table in tables for row in rows(table)], report


def rows(table: TextTable) -> list[tuple[Any, ...]]:
    return list(zip(table.lines.tolist(), *(table[c].to_pylist() for c in COLUMNS), strict=True))


CELLS = st.sampled_from(["1", "", "x", '"q"', '"a""b"', '"a,b"', '"', 'a"', '"a"b', "é", " "])
TEXTS = st.lists(st.lists(CELLS, min_size=1, max_size=4).map(",".join), min_size=1, max_size=8)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXTS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([1, 5, 1 << 20]))
def test_as_the_whole_file(tmp_path, texts, end, size):
    path = tmp_path / "f"
    path.write_bytes((end.join(["a,x,b", "1,2,3", *texts]) + end).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", size)
        found, report = streamed(path)
    dropped = sum(report.reasons("dropped").values())
    assert report.rows_read == len(found) + dropped
    assert report.rows_read == 1 + sum(bool(text.strip()) for text in texts)
    whole = ReadReport()
    try:
        table = read_table(
            {"f": path},
            "f",
            COLUMNS,
            separator=",",
            encoding="utf-8",
            header=True,
            kind="dropped",
            report=whole,
        )
    except ValueError:  # more than half of the lines unusable; a stream cannot tell
        return
    if whole.rows_read < report.rows_read:  # the whole file joins lines with an open quote
        return
    assert set(found) == set(rows(table))


def test_bytes_that_are_no_utf8_cost_no_row(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a,b\n1,2\n\xff,3\n\n4,5\n")
    found, report = streamed(path)
    assert found == [(2, "2", "1"), (3, "3", "\ufffd"), (5, "5", "4")]
    assert report.reasons("repaired") == {"not_utf8": 1}
    assert report.reasons("skipped") == {"blank_line": 1}


def test_file_not_given():
    with pytest.raises(ValueError, match="files must hold f, got none"):
        list(stream_table({}, "f", COLUMNS, separator=",", kind="dropped", report=ReadReport()))
