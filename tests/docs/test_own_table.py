"""The page on tables of the user's own: its commands are typed one after the other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kedro.config import OmegaConfigLoader
from kedro.framework.cli.cli import KedroCLI

from clickprompt.cli import cli, run
from clickprompt.parameters import ProjectParameters, check_parameters
from clickprompt.readers import ReadResult, read_interactions
from clickprompt.settings import CONFIG_LOADER_ARGS
from tests.docs.pages import blocks, commands, read
from tests.docs.test_readme import OWN_TABLE, configuration
from tests.end_to_end.project import REPOSITORY, make_project

(EXAMPLE_TABLES,) = blocks(OWN_TABLE, "python")
EDIT, WHOLE = blocks(OWN_TABLE, "yaml")
COMMANDS = [words for block in blocks(OWN_TABLE, "sh") for words in commands(block)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with the page's tables and what its ``kedro new-table`` commands write."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "conf" / "base", folder / "conf" / "base")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(EXAMPLE_TABLES.text, str(EXAMPLE_TABLES), "exec"), {"__name__": "example"})
        for words in COMMANDS:
            if words[1] == "new-table":
                called = CliRunner(env={"COLUMNS": "120"}).invoke(cli, words[1:])
                assert called.exit_code == 0, called.output
                (folder / f"{words[-1]}.log").write_text(called.output)
    return folder


def parameters(project: Path, environment: str, **changes) -> ProjectParameters:
    loader = OmegaConfigLoader(
        conf_source=str(project / "conf"),
        env=environment,
        runtime_params=changes,
        **CONFIG_LOADER_ARGS,
    )
    return check_parameters(loader["parameters"])


def ingest(project: Path, file: str, found: ProjectParameters) -> ReadResult:
    return read_interactions({file: project / file}, found.data)


def test_runs_name_environments_that_were_made(project):
    runs = [words[2:] for words in COMMANDS if words[1] == "run"]
    assert len(runs) + sum(words[1] == "new-table" for words in COMMANDS) == len(COMMANDS)
    for words in runs:
        given = run.make_context("run", list(words)).params
        assert parameters(project, given["env"]).data.reader == "table"


def test_avazu_as_the_page_says(project):
    found = parameters(project, "avazu", **yaml.safe_load(EDIT.text))
    data = found.data
    assert (data.user, data.item, data.time, data.split.by) == (
        "device_ip",
        "site_id",
        "hour",
        "time",
    )
    assert data.table.time_format == "%y%m%d%H"
    result = ingest(project, "clicks.csv", found)
    assert result.report["rows_kept"] == 2000
    assert result.interactions["hour"].iloc[0] == 1413849600  # 2014-10-21 00:00 UTC
    assert set(result.interactions["hour:weekday"]) == {"Tuesday", "Wednesday"}
    assert set(result.interactions["hour:hour"]) == {str(hour) for hour in range(24)}


def test_the_printed_table_is_the_page_s(project):
    """Line by line, but for the codes, which are shortened on the page."""
    (shown,) = (b.text for b in blocks(OWN_TABLE, "text") if "Taken for" in b.text)
    printed = [
        re.split(r"\s{2,}", line.strip())
        for line in (project / "avazu.log").read_text().splitlines()
    ]
    for line in shown.splitlines()[2:]:
        name, values, *_, why = re.split(r"\s{2,}", line.strip())
        row = next(row for row in printed if row[0] == name)
        assert row[1] == values
        assert why.startswith(row[-1])


def test_criteo_as_the_page_says(project):
    found = parameters(project, "criteo")
    data = found.data
    assert (data.user, data.item, data.time, data.split.by) == (None, None, None, "random")
    assert data.table.columns[:2] == ("label", "I1")
    assert data.table.columns[-1] == "C26"
    kinds = [field.kind for field in data.fields]
    assert kinds == ["numeric"] * 13 + ["categorical"] * 26
    assert data.fields[0].buckets == 10
    assert ingest(project, "criteo.txt", found).report["rows_kept"] == 2000


def test_the_example_with_everything_is_valid_and_reads_a_table(tmp_path):
    data = check_parameters(configuration("base", **yaml.safe_load(WHOLE.text))["parameters"]).data
    raw = (
        "article;customer;part;bought;price;tags\n"
        "1é;007;fit;yes;1,5;a|b\n2;008;tune;no;;a\nNULL;008;final;no;x;\n"
    )
    (tmp_path / "t.csv").write_bytes(raw.encode("cp1252"))
    result = read_interactions({"t.csv": tmp_path / "t.csv"}, data)
    assert result.interactions["bought"].tolist() == [1, 0, 0]
    assert result.interactions["part"].tolist() == list(data.split.names)
    assert result.interactions["article"].tolist()[0] == "1é"
    assert result.interactions["price"].tolist()[0] == 1.5
    assert result.report["repaired"] == {"article_is_missing": 1, "price_is_not_a_number": 1}


def test_reasons_named_on_the_page_exist():
    source = "".join(
        (REPOSITORY / "src/clickprompt/readers/table" / name).read_text()
        for name in ("reader.py", "delimited.py")
    )
    section = read(OWN_TABLE).partition("## 4.")[2]
    reasons = re.findall(r"`(…_\w+|\w+_cells|misplaced_\w+)`", section)
    assert len(reasons) > 6
    for reason in reasons:
        assert reason.removeprefix("…") in source


@pytest.mark.slow
def test_commands_run_to_the_end(tmp_path, monkeypatch):
    """Every command of the page, by Kedro's own entry point, with a tiny language model."""
    folder = make_project(tmp_path)
    monkeypatch.chdir(folder)
    exec(compile(EXAMPLE_TABLES.text, str(EXAMPLE_TABLES), "exec"), {"__name__": "example"})
    quick = (folder / "conf/local/parameters.yml").read_text()
    for words in COMMANDS:
        command = KedroCLI(project_path=folder)
        assert words[0] == "kedro"
        command.main(words[1:], standalone_mode=False)
        if words[1] == "new-table":  # an environment stands in for conf/local
            (folder / f"conf/{words[-1]}/parameters_quick.yml").write_text(quick)
    assert (folder / "data/mine/08_reporting/results.json").is_file()
    assert (folder / "data/criteo/08_reporting/data_report.json").is_file()
