"""Commands, parameters, files and links of the pages exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from kedro.config import OmegaConfigLoader

from benchmarks.__main__ import SPEED
from benchmarks.report import PAGE as RESULTS_PAGE
from benchmarks.results import FOLDER as BENCHMARK_RESULTS
from clickprompt.cli import run, study, tune
from clickprompt.new_table import new_table
from clickprompt.parameters import CTR_MODELS, ProjectParameters, check_parameters
from clickprompt.pipeline_registry import register_pipelines
from clickprompt.readers import READERS
from clickprompt.settings import CONFIG_LOADER_ARGS
from clickprompt.studies.cells import expand, only
from clickprompt.training.result import PREDICTIONS, REPORT, WEIGHTS
from clickprompt.tuning import check_space
from tests.docs.pages import (
    LANGUAGES,
    PAGES,
    REPOSITORY,
    Block,
    anchors,
    blocks,
    commands,
    inline_code,
    links,
    prose,
    read,
)
from tests.end_to_end.project import ENVIRONMENTS

CONF = REPOSITORY / "conf"
PIPELINES = register_pipelines()
OWN_TABLE = "docs/own-table.md"  # tests/docs/test_own_table.py runs what it says
SHELL_BLOCKS = [block for page in PAGES if page != OWN_TABLE for block in blocks(page, "sh")]
YAML_BLOCKS = [block for page in PAGES if page != OWN_TABLE for block in blocks(page, "yaml")]
# Cheap enough to be run for real.
RUN = (["make", "help"], ["kedro", "registry", "list"])


def configuration(environment: str, **changes):
    return OmegaConfigLoader(
        conf_source=str(CONF), env=environment, runtime_params=changes, **CONFIG_LOADER_ARGS
    )


def check_command(words: list[str]) -> None:
    """One command of a page against what is really there."""
    if words in RUN:
        environment = os.environ | {"KEDRO_DISABLE_TELEMETRY": "1"}
        program = shutil.which(words[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert program is not None
        subprocess.run(
            [program, *words[1:]], cwd=REPOSITORY, env=environment, capture_output=True, check=True
        )
    elif words[:2] == ["kedro", "run"]:
        check_run(words[2:])
    elif words[:2] == ["kedro", "tune"]:
        check_tune(words[2:])
    elif words[:2] == ["kedro", "study"]:
        check_study(words[2:])
    elif words[:2] == ["pip", "install"]:
        (extra,) = re.findall(r"^\.\[(\w+)\]$", words[-1])
        assert words[2:-1] == ["-e"]
        assert extra in tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    elif words[:2] == ["kedro", "new-table"]:
        known = {name for option in new_table.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known
    elif words[0] == "make":
        check_make(words[1:])
    elif words[0] == "source":
        assert words == ["source", f"{makefile_value('VENV')}/bin/activate"]
    elif words[0] == "export":
        assert words[1] == f"MLFLOW_TRACKING_URI={tracking_address()}"
    elif words[:3] == ["mlflow", "models", "serve"]:
        check_server(words[3:])
    elif words[0] == "curl":
        (rows,) = json.loads(words[words.index("-d") + 1]).values()
        columns = {
            field["column"] for field in configuration("base")["parameters"]["data"]["fields"]
        }
        assert all(columns.issuperset(row) for row in rows)
    elif words[:2] == ["jupyter", "execute"]:
        check_notebooks(words[2:])
    elif words[:2] == ["python", "-m"]:
        check_module(words[2], words[3:])
    elif words[0] in ("accelerate", "torchrun"):
        check_launcher(words)
    else:
        pytest.fail(f"no rule says how to check {words}")


def check_run(options: list[str]) -> None:
    """Parsed by the command itself; then names and parameters against registry and conf."""
    given = run.make_context("run", list(options)).params
    names = [given["pipeline"], *given["pipelines"]]
    assert set(filter(None, names)) <= set(PIPELINES)
    assert given["env"] in (None, *ENVIRONMENTS)
    check_parameters(configuration(given["env"] or "base", **given["params"])["parameters"])


def tracking_address() -> str:
    return str(yaml.safe_load(read("conf/base/mlflow.yml"))["server"]["mlflow_tracking_uri"])


def check_server(words: list[str]) -> None:
    """The options of MLflow's server, and the name that a run registers."""
    from mlflow.models.cli import commands as models

    known = {name for option in models.commands["serve"].params for name in option.opts}
    assert {word for word in words if word.startswith("-")} <= known
    name = configuration("base")["parameters"]["serving"]["register_as"]
    assert words[words.index("-m") + 1] == f"models:/{name}/1"


def check_notebooks(words: list[str]) -> None:
    """The notebooks, all of them, and the options of nbclient's command."""
    from nbclient.cli import nbclient_aliases, nbclient_flags

    known = {f"--{name}" for name in (*nbclient_aliases, *nbclient_flags)}
    options = [word for word in words if word.startswith("-")]
    assert {option.partition("=")[0] for option in options} <= known
    there = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("notebooks/0*.ipynb")}
    assert set(words) - set(options) == there


def check_tune(options: list[str]) -> None:
    """Parsed by the command itself; then the space of the stage against the parameters."""
    given = tune.make_context("tune", list(options)).params
    assert given["env"] in (None, *ENVIRONMENTS)
    raw = configuration(given["env"] or "base", **given["params"])["parameters"]
    assert check_space(raw, given["stage"])[0]


def check_study(options: list[str]) -> None:
    """Parsed by the command itself; then the study's cells against the parameters and filters."""
    given = study.make_context("study", list(options)).params
    raw = configuration(given["env"] or "base", **given["params"])["parameters"]
    if given["name"] != "list":
        declared = check_parameters(raw).studies.grids[given["name"]]
        assert only(expand(given["name"], declared, raw), declared, given["only"])


def check_make(words: list[str]) -> None:
    values = dict(word.split("=", 1) for word in words if "=" in word)
    targets = [word for word in words if "=" not in word]
    subprocess.run(["make", "-n", *words], cwd=REPOSITORY, capture_output=True, check=True)
    for name in values:
        makefile_value(name)
    if targets == ["run"]:
        check_run(values.get("ARGS", "").split())


def makefile_value(name: str) -> str:
    found = re.search(rf"^{name} \?=(.*)$", read("Makefile"), flags=re.MULTILINE)
    assert found is not None, f"the Makefile has no {name}"
    return found[1].strip()


def check_module(module: str, words: list[str]) -> None:
    """A benchmark's names, or the options of a module's own help."""
    if module == "benchmarks":
        assert set(words) <= set(SPEED)
        return
    place = REPOSITORY / module.replace(".", "/")
    source = place / "__main__.py" if place.is_dir() else place.with_name(f"{place.name}.py")
    if not words and "argparse" not in source.read_text():
        return  # it has no help: calling it would do its work
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for word in words:
        assert not word.startswith("-") or word in done.stdout


def check_launcher(words: list[str]) -> None:
    """The launcher's options against its own help; then what it launches."""
    launcher, launched = words[: words.index("-m")], words[words.index("-m") + 1 :]
    options = [word for word in launcher if word.startswith("--")]
    program = str(Path(sys.executable).with_name(launcher[0]))
    commands = [word for word in launcher[1:2] if not word.startswith("-")]
    done = subprocess.run(
        [program, *commands, "--help"], capture_output=True, text=True, check=True
    )
    assert all(option in done.stdout for option in options)
    assert launched[0] == "clickprompt"
    check_command(["kedro", *launched[1:]])


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=str)
def test_shell_block(block: Block):
    assert commands(block)
    for words in commands(block):
        check_command(words)


def test_a_wrong_command_would_be_noticed():
    """The checks themselves: each of these must fail."""
    wrong = [
        "kedro run --pipeline=pretraining",
        "kedro run --env=movielens_2m",
        "kedro run --params=ctr.nam=dnn",
        "kedro run --param=seed=1",
        "kedro tune --stage=pretrain",
        "kedro tune --params=tuning.trial=3",
        "pip install -e .[tunes]",
        "kedro new-table clicks.csv --nam mine",
        "jupyter execute notebooks/01_data.ipynb",
        "make bake",
        "make env TORCH_WHEEL=x",
        "make run ARGS=--params=seed=-1",
        "source venv/bin/activate",
        "python -m benchmarks.speed",
        "python -m benchmarks speed",
        "python -m benchmarks.accuracy --seed-list=1",
        "pip install clickprompt",
        "torchrun --processes 2 -m clickprompt run",
        "accelerate launch -m clickprompt run --params=training.process=2",
    ]
    for line in wrong:
        block = Block("x", 1, "sh", line)
        with pytest.raises(BaseException):  # noqa: B017, PT011
            check_command(commands(block)[0])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_known_language(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, str(block)


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_yaml_block_is_a_valid_parameters_file(block):
    changes = yaml.safe_load(block.text)
    checked = check_parameters(configuration("base", **changes)["parameters"])
    entries = {  # they have done their work once checked, and are no part of a dump
        group: {
            name: entry.model_dump(mode="json") for name, entry in getattr(checked, group).items()
        }
        for group in ("ctr_sizes", "plm_choices")
    }
    assert holds(checked.model_dump(mode="json") | entries, changes)
    for stage in changes.get("tuning", {}).get("space", {}):
        check_space(configuration("base", **changes)["parameters"], stage)


def holds(loaded: object, written: object) -> bool:
    """Whether all that is written was loaded; a mapping may hold more."""
    if isinstance(written, dict) and isinstance(loaded, dict):
        return all(key in loaded and holds(loaded[key], part) for key, part in written.items())
    return loaded == written


# --- names inside the text ------------------------------------------------------------------


def known_parameter(path: str) -> bool:
    """Whether a dotted name is a parameter (or an option of a reader)."""
    model = ProjectParameters
    parts = path.split(".")
    if parts[:2] == ["data", "options"] and len(parts) == 3:
        return any(parts[2] in reader.options for reader in READERS.values())
    for position, part in enumerate(parts):
        if part not in model.model_fields:
            return False
        if position < len(parts) - 1:
            model = model.model_fields[part].annotation
            model = next(iter(getattr(model, "__args__", ())), model)  # of "X | None"
            if not hasattr(model, "model_fields"):
                return False
    return True


def parameter_mentions():
    groups = "|".join(ProjectParameters.model_fields)
    name = re.compile(rf"((?:{groups})(?:\.[a-z_0-9]+)+)(?:: (.+))?$")
    for page in PAGES:
        for code in inline_code(page):
            found = name.match(code)
            if found and not found[1].endswith((".json", ".parquet", ".safetensors")):
                yield page, found[1], found[2]


def test_parameters_named_in_the_text_exist():
    mentions = list(parameter_mentions())
    assert len(mentions) > 40
    unknown = [f"{page}: {name}" for page, name, _ in mentions if not known_parameter(name)]
    assert not unknown


def test_values_of_parameters_named_in_the_text_are_valid():
    for page, name, value in parameter_mentions():
        if value is None:
            continue
        changes = yaml.safe_load(value)
        for part in reversed(name.split(".")):
            changes = {part: changes}
        try:
            check_parameters(configuration("base", **changes)["parameters"])
        except ValueError as error:
            pytest.fail(f"{page}: {name}: {value}: {error}")


def products() -> set[str]:
    """Files and folders that a run makes or a user provides, as conf says."""
    found = set()
    for environment in ENVIRONMENTS:
        config = configuration(environment)
        for entry in config["catalog"].values():
            if isinstance(entry, dict):
                found.add(entry.get("filepath") or entry.get("path") or "")
        found.add(yaml.safe_load((CONF / environment / "globals.yml").read_text())["data"])
    mlflow = yaml.safe_load((CONF / "base" / "mlflow.yml").read_text())
    found.add(mlflow["server"]["mlflow_tracking_uri"].removeprefix("sqlite:///"))
    experiment = mlflow["tracking"]["experiment"]
    found.add(experiment["create_experiment_kwargs"]["artifact_location"])
    logging = yaml.safe_load((CONF / "logging.yml").read_text())
    found.add(logging["handlers"]["info_file"]["filename"])
    found |= {str(path.relative_to(REPOSITORY)) for path in (BENCHMARK_RESULTS, RESULTS_PAGE)}
    found |= {"data/.stamps.json", "conf/local/parameters.yml"}
    tuning = configuration("base")["parameters"]["tuning"]
    found |= {f"{tuning['folder']}/<study>.db", f"{tuning['report_folder']}/<study>.html"}
    return found - {""}


PATH = re.compile(r"(?:conf|data|docs|src|tests|benchmarks|mlartifacts)/[\w.<>*/-]*$|mlflow\.db$")


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist_or_are_products(page):
    made = products()
    for code in inline_code(page):
        if not PATH.match(code):
            continue
        # Up to the first placeholder: <name>, NAME, *, or the dots of an abbreviation.
        fixed = re.split(r"<|\*|NAME|…", code)[0].rstrip("/")
        fixed = fixed.rpartition("/")[0] if fixed != code.rstrip("/") and "." in fixed else fixed
        known = (REPOSITORY / fixed).exists() or fixed in made
        assert known or any(name.startswith(f"{fixed}/") for name in made), f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for file, anchor in links(page):
        path = (REPOSITORY / page).parent / file if file else REPOSITORY / page
        assert path.exists(), f"{page}: {file}"
        if anchor:
            found = anchors(str(path.resolve().relative_to(REPOSITORY)))
            assert anchor in found, f"{page}: {file}#{anchor}"


def test_pictures_are_there():
    pictures = [Path("docs/images") / Path(t).name for t, _ in links("README.md") if "images/" in t]
    names = ["scoring-page.png", "kedro-viz.png", "mlflow-comparison.png", "mlflow-study.png"]
    assert [picture.name for picture in pictures] == names
    for picture in pictures:
        assert (REPOSITORY / picture).read_bytes().startswith(b"\x89PNG")


# --- facts of the README ----------------------------------------------------------------------


def test_every_pipeline_and_environment_has_its_line():
    text = read("README.md")
    for name in set(PIPELINES) - {"__default__"}:
        assert f"| `{name}` |" in text
    for name in set(ENVIRONMENTS) - {"base"}:
        assert f"| `{name}` |" in text


def test_every_ctr_model_and_family_is_named():
    from clickprompt.plm.families import FAMILIES

    text = read("README.md")
    (line,) = re.findall(r"^\*\*CTR models:\*\* (.*?)\. ", text, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", line)) == set(CTR_MODELS)
    for family in FAMILIES:
        assert family in text.lower()


def test_raw_files_of_every_environment_are_named():
    text = prose("README.md")
    for environment in ("movielens_100k", "movielens_1m", "bookcrossing"):
        entry = configuration(environment)["catalog"]["raw_files"]
        line = next(line for line in text.splitlines() if f"`{entry['path']}/`" in line)
        assert set(re.findall(r"`([\w.-]+)`", line)) >= set(entry["files"])
        assert re.search(r"\((.*)\)", entry["published_at"])[1] in line


def test_raw_files_of_amazon_toys_are_named():
    entry = configuration("amazon_toys")["catalog"]["raw_files"]
    for page in ("README.md", "docs/data.md"):
        assert f"`{entry['path']}/`" in read(page)
        for name in entry["files"]:
            assert f"`{name}.gz`" in read(page)


def test_numbers_of_the_embedded_data():
    """Counted anew from the published file."""
    import pandas as pd

    ratings = pd.read_csv(REPOSITORY / "data/01_raw/movielens_small/ratings.csv")["rating"]
    label = configuration("base")["parameters"]["data"]["label"]
    rows = int(((ratings >= label["positive_from"]) | (ratings <= label["negative_to"])).sum())
    train, valid = rows * 8 // 10, rows * 9 // 10 - rows * 8 // 10
    splits = f"{train:,} train, {valid:,} valid, {rows - train - valid:,} test"
    assert f"{rows:,} labelled ratings: {splits}" in " ".join(read("README.md").split())


def test_files_of_a_trained_stage():
    line = next(line for line in read("README.md").splitlines() if "<digest>/result/`" in line)
    assert re.findall(r"`([\w.]+)`", line) == [WEIGHTS, REPORT, PREDICTIONS]


def test_places_for_measured_numbers_are_pairs():
    text = read("README.md")
    opened = re.findall(r"<!-- (results:\w+) -->", text)
    assert "results:embedded" in opened
    assert opened == re.findall(r"<!-- /(results:\w+) -->", text)
