"""What every reader promises: rows read = rows kept + rows dropped, and each dropped one is listed.

A reader takes part with one ``Case``: files that it can read, a usable line for every number, and
lines that no row can be made of.
"""

from __future__ import annotations

import gzip
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.modality.checks import InteractionsCheck
from clickprompt.parameters import DataParameters
from clickprompt.readers import READERS, read_interactions, stream_interactions
from clickprompt.readers.report import EXAMPLES_PER_REASON
from tests.readers import test_amazon_toys as amazon
from tests.readers import test_bookcrossing as bookcrossing
from tests.readers import test_goodreads as goodreads
from tests.readers import test_movielens_dat as movielens


@dataclass(frozen=True)
class Case:
    """Files of one reader.

    - ``ratings``: name of the file whose lines become rows, ``header`` its first line, if any;
    - ``others``: the other files, name -> bytes;
    - ``good(n)``: the n-th usable line, with its line end; all are different;
    - ``broken``: lines that are dropped, each by itself, wherever they stand;
    - ``data``: what ``DataParameters`` needs beside reader, label and one field.
    """

    reader: str
    ratings: str
    others: Mapping[str, bytes]
    good: Callable[[int], bytes]
    broken: tuple[bytes, ...]
    header: bytes = b""
    data: Mapping[str, Any] = field(default_factory=lambda: {"item": "movie_id"})

    def parameters(self) -> DataParameters:
        values = {
            "reader": self.reader,
            "fields": [{"column": "user_id", "name": "user id"}],
            "label": {"positive_from": 4, "negative_to": 2},
        }
        return DataParameters.model_validate(values | dict(self.data))


def amazon_case(form: str) -> Case:
    name, metadata = amazon.NAMES[form]
    keys = amazon.KEYS[form]
    good = amazon.REVIEW[form]()
    wrong = ({keys["user"]: 7}, {keys["rating"]: "good"}, {keys["time"]: None}, {keys["item"]: ""})
    return Case(
        reader="amazon_toys",
        ratings=name,
        others={metadata: amazon.WRITE[form](amazon.METADATA[form]())},
        good=lambda n: amazon.lines(amazon.REVIEW[form](user=f"A{n}")),
        broken=(b'{"reviewerID": "A1", \n', b"[]\n", *(amazon.lines(good | w) for w in wrong)),
        data={"item": "item_id"},
    )


CASES = {
    "movielens_small": Case(
        reader="movielens_small",
        ratings="ratings.csv",
        header=b"userId,movieId,rating,timestamp\r\n",
        others={"movies.csv": b'movieId,title,genres\r\n1,"Heat, The (1995)",Drama|Action\r\n'},
        good=lambda n: f"{n},1,{n % 10 / 2 + 0.5},{964982703 + n}\r\n".encode(),
        broken=(
            b"1,1,4.0\r\n",
            b"1,9,4.0,1\r\n",
            b",1,4.0,1\r\n",
            b"1,1,5.5,1\r\n",
            b"1,1,good,1\r\n",
            b"1,1,4.0,-1\r\n",
        ),
    ),
    "movielens_1m": Case(
        reader="movielens_1m",
        ratings="ratings.dat",
        others={
            "users.dat": movielens.USERS_1M.encode("latin-1"),
            "movies.dat": movielens.MOVIES_1M.encode("latin-1"),
        },
        good=lambda n: f"{n % 3 + 1}::1::{n % 5 + 1}::{978300000 + n}\n".encode(),
        broken=tuple(
            f"{line}\n".encode() for line, why in movielens.BAD_RATINGS.items()
            if why != "duplicate_row"
        ),
    ),
    "movielens_100k": Case(
        reader="movielens_100k",
        ratings="u.data",
        others={
            "u.user": movielens.USERS_100K.encode("latin-1"),
            "u.item": movielens.ITEMS_100K.encode("latin-1"),
        },
        good=lambda n: f"{n % 2 + 1}\t267\t{n % 5 + 1}\t{874965000 + n}\n".encode(),
        broken=(*movielens.USER_0.encode().splitlines(True), b"1\t1\n", b"1\t1\t0\t8\n"),
    ),
    "bookcrossing": Case(
        reader="bookcrossing",
        ratings=bookcrossing.RATINGS,
        header=bookcrossing.HEADERS[bookcrossing.RATINGS].encode(),
        others={
            name: bookcrossing.FILES[name].encode("cp1252")
            for name in (bookcrossing.USERS, bookcrossing.BOOKS)
        },
        good=lambda n: bookcrossing.line("2", f"{n:010d}", str(n % 11)).encode(),
        broken=(b'"2";"0195153448"\r\n', b'"";"0195153448";"5"\r\n', b'"2";"1";"11"\r\n'),
        data={"item": "isbn", "time": None},
    ),
    **{f"amazon_toys {form}": amazon_case(form) for form in amazon.FORMS},
    "goodreads json": Case(
        reader="goodreads",
        ratings=goodreads.JSON,
        others={n: raw for n, raw in goodreads.published("json").items() if n != goodreads.JSON},
        good=lambda n: goodreads.lines(goodreads.interaction(f"{n:032x}", rating=n % 5 + 1)),
        broken=(
            b"[]\n",
            b'{"user_id": "a"\n',
            goodreads.lines(goodreads.interaction(rating=0)),
            goodreads.lines(goodreads.interaction(rating=6)),
            goodreads.lines(goodreads.interaction(user="")),
        ),
        data={"item": "book_id"},
    ),
    "table": Case(
        reader="table",
        ratings="mine.csv",
        header=b"user_id,ad,rating,timestamp\r\n",
        others={},
        good=lambda n: f'u{n},"a ""b"", {n}",{n % 5 + 1},{1700000000 + n}\r\n'.encode(),
        broken=(b"u1,a,5\r\n", b"u1,a,good,1700000000\r\n", b"u1,a,,1700000000\r\n"),
        data={"item": "ad"},
    ),
    "goodreads csv": Case(
        reader="goodreads",
        ratings=goodreads.CSV,
        header=b"user_id,book_id,is_read,rating,is_reviewed\n",
        others={
            **{n: raw for n, raw in goodreads.published("csv").items() if n != goodreads.CSV},
            goodreads.USER_MAP: goodreads.table(
                "user_id_csv,user_id", *((n, f"{n:032x}") for n in range(700))
            ),
        },
        good=lambda n: f"{n},0,1,{n % 5 + 1},0\n".encode(),
        broken=(b"1,0,1\n", b"9999,0,1,5,0\n", b"1,0,1,0,0\n", b"1,0,1,x,0\n", b",0,1,5,0\n"),
        data={"item": "book_id", "time": None},
    ),
}  # fmt: skip
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@contextmanager
def written(case: Case, lines: list[bytes], packed: bool = False) -> Iterator[dict[str, Path]]:
    """The files of a case with these lines, in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        files = dict(case.others) | {case.ratings: case.header + b"".join(lines)}
        for name, raw in files.items():
            paths[name] = Path(folder) / (f"{name}.gz" if packed else name)
            paths[name].write_bytes(gzip.compress(raw, 1) if packed else raw)
        yield paths


def test_every_registered_reader_has_a_case():
    tested = {case.reader for case in CASES.values()}
    assert tested == set(READERS)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**16), good=st.integers(12, 30), data=st.data())
@EVERY_CASE
def test_each_line_is_a_row_or_listed_where_it_stands(case, seed, good, data):
    broken = data.draw(st.lists(st.sampled_from(case.broken), max_size=10))
    lines = [*map(case.good, range(good)), *broken]
    random.Random(seed).shuffle(lines)
    with written(case, lines) as files:
        result = read_interactions(files, case.parameters())
    report = result.report
    assert report["rows_read"] == len(lines)
    assert report["rows_kept"] == len(result.interactions) == good
    assert sum(report["dropped"].values()) == len(broken)
    assert result.interactions["row"].tolist() == list(range(good))

    first = 2 if case.header else 1
    expected = {first + n for n, line in enumerate(lines) if line in case.broken}
    listed = [e for e in report["examples"] if e["reason"] in report["dropped"]]
    assert {e["line"] for e in listed} == expected
    assert len(listed) == len(expected)
    assert {e["file"] for e in listed} <= {case.ratings}
    for example in listed:
        # words of the line; a reader may leave out quotes, separators and cells that it does not
        # use, write a number with its decimals, and a long text is cut
        line = lines[example["line"] - first].decode().lower()
        shown = re.sub(r"\.0\b", "", example["text"].removesuffix("…").lower())
        words = re.findall(r"\w+", line)
        assert all(any(w.startswith(s) for w in words) for s in re.findall(r"\w+", shown))


@EVERY_CASE
def test_counts_hold_where_there_are_more_than_examples(case):
    lines = [*map(case.good, range(400)), *(case.broken[n % 2] for n in range(300))]
    with written(case, lines) as files:
        report = read_interactions(files, case.parameters()).report
    assert (report["rows_read"], report["rows_kept"]) == (700, 400)
    assert sum(report["dropped"].values()) == 300
    examples = Counter(example["reason"] for example in report["examples"])
    for reason, count in report["dropped"].items():
        assert examples[reason] == min(count, EXAMPLES_PER_REASON)


@EVERY_CASE
def test_a_packed_copy_has_the_same_rows_and_report(case):
    lines = [*map(case.good, range(20)), *case.broken]
    with written(case, lines) as files:
        plain = read_interactions(files, case.parameters())
    with written(case, lines, packed=True) as files:
        packed = read_interactions(files, case.parameters())
    assert packed.interactions.equals(plain.interactions)
    assert packed.report == plain.report


@EVERY_CASE
def test_the_table_passes_the_checks(case):
    data = case.parameters()
    check = InteractionsCheck(data)
    with written(case, [*map(case.good, range(30)), *case.broken]) as files:
        stream = stream_interactions(files, data)
        for batch in stream:
            check.check(batch)
        assert check.finish()["rows"] == stream.report["rows_kept"] == 30


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 30), st.binary(max_size=8)),
        min_size=1,
        max_size=4,
    ),
    in_others=st.booleans(),
)
@EVERY_CASE
def test_any_change_of_bytes_is_read_or_refused_and_adds_up(case, edits, in_others):
    lines = [*map(case.good, range(20)), *case.broken]
    raw = {case.ratings: case.header + b"".join(lines), **case.others}
    for name in sorted(case.others) if in_others else [case.ratings]:
        for place, removed, put in edits:
            at = int(place * len(raw[name]))
            raw[name] = raw[name][:at] + put + raw[name][at + removed :]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in raw}
        for name, path in paths.items():
            path.write_bytes(raw[name])
        refusal, result = "", None
        try:
            result = read_interactions(paths, case.parameters())
        except ValueError as error:
            refusal = str(error)
    if result is None:
        assert any(name in refusal for name in raw), refusal
        return
    report = result.report
    assert report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())
    assert report["rows_kept"] == len(result.interactions)
