"""The environment that is written: all that the search ran with, never overwritten unasked."""

from __future__ import annotations

import shutil

import pytest
import yaml
from kedro.config import OmegaConfigLoader

from clickprompt.nested import merged, nested
from clickprompt.parameters import check_parameters
from clickprompt.settings import CONFIG_LOADER_ARGS
from clickprompt.tuning import write_environment
from clickprompt.tuning.environment import check_environment
from tests.end_to_end.project import REPOSITORY
from tests.tuning.searches import DECAY, RATE, search


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return search(tmp_path_factory.mktemp("tuned"), 3)


@pytest.fixture
def conf(tmp_path):
    folder = tmp_path / "conf"
    shutil.copytree(
        REPOSITORY / "conf", folder, ignore=shutil.ignore_patterns("local"), symlinks=True
    )
    (folder / "local").mkdir()
    return folder


def load(conf, environment, **params):
    """What Kedro reads; at once, since its loaders share the values of globals."""
    loader = OmegaConfigLoader(
        conf_source=str(conf), env=environment, runtime_params=params, **CONFIG_LOADER_ARGS
    )
    return {key: loader[key] for key in ("globals", "parameters", "catalog")}


def write(tuned, conf, name="best", source="local", **settings):
    changes = settings.pop("changes", {})
    return write_environment(
        tuned,
        conf=conf,
        name=name,
        source=source,
        changes=changes,
        command="kedro tune",
        **settings,
    )


def moved(catalog, data):
    """The catalog with the tables in the new environment's own folder; raw files are shared."""
    return {
        name: {
            key: value.replace(f"{data}/", "data/best/", 1)
            if key in ("filepath", "path") and name != "raw_files"
            else value
            for key, value in entry.items()
        }
        for name, entry in catalog.items()
    }


SOURCES = ["base", "local", "movielens_small_time", "movielens_1m", "polars", "several"]


def without_folders(raw):
    """Each environment keeps studies in folders of its own."""
    dump = check_parameters(raw).model_dump()
    for name in ("folder", "report_folder"):
        del dump["studies"][name]
    return dump


@pytest.mark.parametrize("source", SOURCES)
def test_its_parameters_are_those_of_the_best_trial(tuned, conf, source):
    """As the trial's session got them: source, command line and values, merged by Kedro."""
    if source == "several":
        (conf / "several" / "parameters").mkdir(parents=True)
        (conf / "several" / "parameters_ctr.yml").write_text(
            "ctr: {name: autoint, residual: false}"
        )
        (conf / "several" / "parameters" / "more.yml").write_text("pretrain: {epochs: 9}\n")
        (conf / "several" / "globals.yml").write_text("data: data/several\nextra: 1\n")
        (conf / "several" / "catalog.yml").write_text("x: {type: MemoryDataset}\n")
        (conf / "several" / "credentials.yml").write_text("key: secret\n")
    params = {"seed": 4, "ctr": {"embedding_size": 16}}
    expected = load(conf, source, **merged(params, nested(tuned.best_values)))
    folder = write(tuned, conf, source=source, changes=params)
    found = load(conf, "best")
    assert without_folders(found["parameters"]) == without_folders(expected["parameters"])
    assert found["parameters"]["backbone"]["learning_rate_ctr"] == tuned.best_values[RATE]
    assert found["globals"] == expected["globals"] | {"data": "data/best"}
    assert found["catalog"] == moved(expected["catalog"], expected["globals"]["data"])
    assert not list(folder.rglob("credentials*"))


def test_only_what_was_tuned_is_written_where_nothing_else_was_changed(tuned, conf):
    folder = write(tuned, conf)
    assert {path.name for path in folder.iterdir()} == {"globals.yml", "parameters.yml"}
    written = yaml.safe_load((folder / "parameters.yml").read_text())
    assert written == nested(tuned.best_values)
    assert set(written["backbone"]) == {RATE.split(".")[1], DECAY.split(".")[1]}


def test_the_comment_says_where_it_comes_from(tuned, conf):
    text = (write(tuned, conf) / "parameters.yml").read_text()
    assert f"trial {tuned.best.number}, valid AUC {tuned.best.value!r}" in text
    assert text.startswith("# kedro tune, study study, files ")
    assert "\n# kedro tune\n" in text


def test_references_to_globals_stay_references(tuned, conf):
    (conf / "local" / "parameters.yml").write_text("training: {folder: '${globals:data}/models'}\n")
    write(tuned, conf)
    assert load(conf, "best")["parameters"]["training"]["folder"] == "data/best/models"


def test_it_is_written_again_when_the_study_goes_on(tuned, conf):
    write(tuned, conf)
    write(tuned, conf, changes={"seed": 7})
    assert load(conf, "best")["parameters"]["seed"] == 7


@pytest.mark.parametrize("file", ["parameters.yml", "globals.yml", "catalog.yml"])
def test_an_edited_one_is_kept_unless_forced(tuned, conf, file):
    path = write(tuned, conf) / file
    with path.open("a") as stream:
        stream.write("\n# mine\n")
    with pytest.raises(ValueError, match=r"conf/best must be .*got one that was edited since"):
        write(tuned, conf)
    assert "# mine" in path.read_text()
    write(tuned, conf, force=True)
    assert not path.exists() or "# mine" not in path.read_text()


def test_one_written_by_hand_or_of_another_study_is_kept(tuned, conf):
    with pytest.raises(
        ValueError, match=r"movielens_1m must be .*got one that was written by hand"
    ):
        write(tuned, conf, name="movielens_1m")
    write(tuned, conf)
    with pytest.raises(ValueError, match=r"conf/best must be .*got that of study study: --force"):
        check_environment(conf, "best", "other", force=False)
    check_environment(conf, "best", "other", force=True)


@pytest.mark.parametrize("name", ["base", "local", "../x", "a b", "", "1a"])
def test_names_that_cannot_be_used(conf, name):
    with pytest.raises(ValueError, match=r"the environment must be made of letters.*got "):
        check_environment(conf, name, "study", force=True)
