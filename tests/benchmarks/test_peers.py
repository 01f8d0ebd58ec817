"""The other libraries' inputs hold the table, and a wrong output of theirs is found.

The libraries themselves run in environments that a benchmark makes; no test installs them.
"""

from __future__ import annotations

import copy
import csv
import subprocess
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import report_scale
from benchmarks.peers import check, environments, inputs
from benchmarks.peers.__main__ import PEERS, _summary
from benchmarks.scale_data import FIELDS, Interactions

ROWS = 6_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return Interactions(ROWS).part(0, ROWS)


def read_atomic(path):
    """RecBole's way: the header split at tabs, then fields by ``csv``."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    names = [field.split(":") for field in header.split("\t")]
    rows = [[cell or None for cell in row] for row in csv.reader(lines, delimiter="\t")]
    kinds = dict(names)
    return kinds, [dict(zip(kinds, row, strict=True)) for row in rows]


def as_texts(table: pa.Table) -> list[dict]:
    rows = table.drop_columns(["row"]).to_pylist()
    return [
        {**row, "rating": f"{row['rating']:g}", "timestamp": str(row["timestamp"])} for row in rows
    ]


def test_recbole_reads_the_whole_table_from_one_file(tmp_path, table):
    inputs.write_recbole(table, tmp_path, "set", item_file=False)
    kinds, rows = read_atomic(tmp_path / "set.inter")
    assert kinds == {name: "token" for name in FIELDS} | {
        "genres": "token_seq",
        "rating": "float",
        "timestamp": "float",
    }
    assert rows == as_texts(table)
    assert [path.name for path in tmp_path.iterdir()] == ["set.inter"]


def test_recbole_reads_the_same_table_from_interactions_and_items(tmp_path, table):
    inputs.write_recbole(table, tmp_path, "set", item_file=True)
    _, interactions = read_atomic(tmp_path / "set.inter")
    _, items = read_atomic(tmp_path / "set.item")
    of_book = {item["book_id"]: item for item in items}
    assert len(of_book) == len(items)
    assert [{**row, **of_book[row["book_id"]]} for row in interactions] == as_texts(table)


def test_fuxictr_reads_splits_in_order_of_time(tmp_path, table):
    inputs.write_fuxictr(table, tmp_path)
    parts = [pq.read_table(tmp_path / f"{name}.parquet") for name in inputs.SPLITS]
    assert [len(part) for part in parts] == [ROWS * 8 // 10, ROWS // 10, ROWS // 10]
    splits = inputs.split_by_time(table)
    for earlier, later in pairwise(splits):
        assert max(earlier["timestamp"].to_pylist()) <= min(later["timestamp"].to_pylist())
    assert sorted(row for part in splits for row in part["row"].to_pylist()) == list(range(ROWS))
    for split, part in zip(splits, parts, strict=True):
        assert part.column_names == ["label", *FIELDS]
        assert part.select(list(FIELDS)).equals(split.select(list(FIELDS)))
        stars = split["rating"].to_pylist()
        assert part["label"].to_pylist() == [float(star >= 4) for star in stars]


def right_facts(table: pa.Table) -> dict:
    """What a library that makes no mistake would say, by pandas."""
    splits = [part.to_pandas() for part in inputs.split_by_time(table)]
    frame = table.to_pandas()
    sizes = {name: frame[name].nunique() for name in FIELDS}
    sizes["genres"] = frame["genres"].str.split("|").explode().nunique()
    # a user may have rated a book twice, and differently
    once = [part[~part.duplicated(["user_id", "book_id"], keep=False)].head(5) for part in splits]
    samples = [
        {name: None if pd.isna(row[name]) else row[name] for name in FIELDS}
        | {"label": int(row["label"])}
        for part in once
        for row in part.to_dict("records")
    ]
    return {
        "split_rows": [len(part) for part in splits],
        "positives": [int((part["rating"] >= 4).sum()) for part in splits],
        "vocabulary": sizes,
        "multi_valued": ["genres"],
        "samples": samples,
    }


def test_right_facts_have_no_problem(table):
    assert check.problems(table, right_facts(table), vocabulary_of="all") == []


def lose_a_row(facts):
    facts["split_rows"][0] -= 1


def mislabel(facts):
    facts["positives"][1] += 1


def lose_a_value(facts):
    facts["vocabulary"]["publisher"] -= 1


def change_a_title(facts):
    facts["samples"][0]["title"] += "!"


def turn_a_label(facts):
    facts["samples"][3]["label"] = 1 - facts["samples"][3]["label"]


def call_a_known_user_unknown(facts):
    facts["samples"][2]["title"] = check.OUT_OF_VOCABULARY


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lose_a_row, "split_rows must be"),
        (mislabel, "positives must be"),
        (lose_a_value, "vocabulary must be"),
        (change_a_title, "samples must be rows of the table"),
        (turn_a_label, "samples must be rows of the table"),
        (call_a_known_user_unknown, "samples must be rows of the table"),
    ],
)
def test_a_mistake_is_found(table, mistake, message):
    facts = copy.deepcopy(right_facts(table))
    mistake(facts)
    (problem,) = check.problems(table, facts, vocabulary_of="all")
    assert problem.startswith(message)


def test_values_unseen_in_train_may_be_out_of_vocabulary(table):
    """A last row with a new publisher: known to the whole table, unknown to train."""
    late = table.slice(0, 1).to_pylist()[0]
    late |= {"row": ROWS, "publisher": "New Books", "timestamp": 2_000_000_000}
    longer = pa.concat_tables([table, pa.Table.from_pylist([late], table.schema)])
    facts = right_facts(longer)
    label = int(late["rating"] >= 4)
    sample = {name: late[name] for name in FIELDS} | {"label": label}
    facts["samples"] = [sample | {"publisher": check.OUT_OF_VOCABULARY}]
    assert len(check.problems(longer, facts, vocabulary_of="all")) == 1
    facts["vocabulary"] = check_train_sizes(longer)
    assert check.problems(longer, facts, vocabulary_of="train") == []


def check_train_sizes(table: pa.Table) -> dict[str, int]:
    train = inputs.split_by_time(table)[0].to_pandas()
    sizes = {name: train[name].nunique() for name in FIELDS}
    sizes["genres"] = train["genres"].str.split("|").explode().nunique()
    return sizes


def test_an_environment_is_made_once_and_again_when_its_pins_change(tmp_path, monkeypatch, capsys):
    commands = []

    def run(command, **_):
        commands.append(command[1:3])
        if command[2] == "venv":
            (tmp_path / "recbole" / "bin").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments.subprocess, "run", run)
    python = environments.python_of("recbole", tmp_path)
    assert python == tmp_path / "recbole" / "bin" / "python"
    assert commands == [["-m", "venv"], ["-m", "pip"]]
    assert "recbole==1.2.1" in capsys.readouterr().out
    assert environments.python_of("recbole", tmp_path) == python
    assert len(commands) == 2
    (tmp_path / "recbole" / "requirements.txt").write_text("recbole==1.0\n")
    environments.python_of("recbole", tmp_path)
    assert len(commands) == 4


def test_a_failed_installation_is_not_taken_for_an_environment(tmp_path, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "no such version")

    monkeypatch.setattr(environments.subprocess, "run", run)
    with pytest.raises(RuntimeError, match=r"(?s)must end with code 0, got 1.*no such version"):
        environments.python_of("fuxictr", tmp_path)
    assert not (tmp_path / "fuxictr" / "requirements.txt").exists()


def test_an_unknown_library_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match="library must be one of deepctr, fuxictr, recbole, got 'torchrec'"
    ):
        environments.python_of("torchrec", tmp_path)


def test_every_way_has_pins_a_name_and_a_place_in_the_report():
    assert set(PEERS) == set(report_scale.PEERS)
    for library in set(PEERS.values()):
        pins = (environments.REQUIREMENTS / f"{library}.txt").read_text(encoding="utf-8")
        assert f"{library}==" in pins
        assert library in report_scale.LIBRARIES


def test_the_section_compares_the_quickest_of_both_sides():
    def runs(*seconds):
        return [{"seconds": s, "peak_memory_mb": 100 * (n + 1)} for n, s in enumerate(seconds)]

    peer = [
        entry | {"versions": {"recbole": "1.2.1", "numpy": "1"}} for entry in runs(6.0, 5.0, 7.0)
    ]
    entries = [
        _summary("ours_pandas", runs(4.0, 9.0, 5.0), 1_000_000),
        _summary("ours_polars", runs(2.0, 2.0, 2.5), 1_000_000),
        _summary("recbole_item_file", peer, 1_000_000),
    ]
    assert entries[0] == {
        "name": "ours_pandas",
        "seconds": 4.0,
        "all_seconds": [4.0, 9.0, 5.0],
        "rows_per_second": 250_000,
        "peak_memory_mb": 300,
        "versions": {},
    }
    result = {"date": "d", "machine": "m", "rows": 10**6, "fields": 15, "repeats": 3}
    text = report_scale.peers_section({**result, "entries": entries})
    assert "| ours, polars | 2.00 (2.00, 2.00, 2.50) | 500,000 | 300 | yes |" in text
    assert "| 5.00 (6.00, 5.00, 7.00) | 200,000 | 300 | no |" in text
    assert "RecBole 1.2.1, each in an environment of its own" in text
    assert "2.50 times as quick" in text
