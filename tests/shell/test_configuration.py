"""conf/: every environment is valid, and every node gets typed parameters."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project
from kedro.io import DataCatalog
from pydantic import BaseModel

from clickprompt.parameters import ParameterError, check_parameters
from clickprompt.pipeline_registry import register_pipelines
from clickprompt.readers import READERS
from clickprompt.settings import CONFIG_LOADER_ARGS
from tests.end_to_end.project import ENVIRONMENTS, REPOSITORY

CONF = REPOSITORY / "conf"
PIPELINES = register_pipelines()


def loader(environment: str, **runtime_params):
    return OmegaConfigLoader(
        conf_source=str(CONF), env=environment, runtime_params=runtime_params, **CONFIG_LOADER_ARGS
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environment_is_valid_and_its_reader_gives_its_fields(environment):
    parameters = check_parameters(loader(environment)["parameters"])
    assert parameters.data.reader in READERS
    names = [field.name for field in parameters.data.fields]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_catalog_of_every_environment_can_be_built_and_names_every_dataset(environment):
    config = loader(environment)["catalog"]
    catalog = DataCatalog.from_config(config)
    files = set(READERS[loader(environment)["parameters"]["data"]["reader"]].files)
    assert set(config["raw_files"]["files"]) == files
    for name in PIPELINES["__default__"].datasets():
        if name.startswith("params:"):
            continue
        assert name in config, name
        dataset = catalog.get(name)
        assert dataset.metadata["kedro-viz"]["layer"], name


def test_no_environment_writes_to_the_files_of_another():
    places: dict[str, set[str]] = {}
    for environment in ENVIRONMENTS:
        config = loader(environment)["catalog"]
        places[environment] = {
            entry.get("filepath") or entry["path"]
            for name, entry in config.items()
            if name != "raw_files" and entry["type"] != "MemoryDataset"
        }
    for one in ENVIRONMENTS:
        for other in ENVIRONMENTS:
            assert one == other or places[one].isdisjoint(places[other])


def test_environment_replaces_only_what_it_names():
    base = check_parameters(loader("base")["parameters"])
    large = check_parameters(loader("movielens_1m")["parameters"])
    assert large.ctr.cross_layers == 6
    assert large.ctr.name == base.ctr.name
    assert large.pretrain.masking == base.pretrain.masking
    assert large.data.template == base.data.template
    assert large.plm == base.plm
    assert [field.name for field in large.data.fields][:2] == ["user id", "gender"]


def test_time_split_differs_from_base_in_nothing_else():
    base = check_parameters(loader("base")["parameters"]).model_dump()
    timed = check_parameters(loader("movielens_small_time")["parameters"]).model_dump()
    assert timed["data"]["split"].pop("by") == "time"
    assert base["data"]["split"].pop("by") == "random"
    assert timed == base


def test_runtime_parameters_replace_only_what_they_name():
    raw = loader("movielens_1m", ctr={"name": "dnn"}, seed=1)["parameters"]
    parameters = check_parameters(raw)
    assert (parameters.ctr.name, parameters.ctr.cross_layers, parameters.seed) == ("dnn", 6, 1)


def test_runtime_mistakes_are_reported_together():
    raw = loader("base", ctr={"nam": "dnn"}, seed=-1)["parameters"]
    with pytest.raises(ParameterError, match=r"(?s)2 parameters.*seed.*ctr.nam.*'name'"):
        check_parameters(raw)


def test_base_writes_every_parameter_of_the_method():
    """Newcomers read conf: what is left to a default there must be optimisation detail."""
    raw = loader("base")["parameters"]
    for group in ("ctr", "plm", "prompts", "training", "evaluation"):
        model = type(getattr(check_parameters(raw), group))
        assert set(raw[group]) == set(model.model_fields), group


def test_every_value_of_the_parameter_files_is_known_once():
    seen: set[str] = set()
    for path in (CONF / "base").glob("parameters*.yml"):
        for name, value in yaml.safe_load(path.read_text()).items():
            keys = {f"{name}.{key}" for key in value} if isinstance(value, dict) else {name}
            assert seen.isdisjoint(keys), path
            seen |= keys


def parameter_inputs():
    for node in PIPELINES["__default__"].nodes:
        arguments = list(inspect.signature(node.func).parameters)
        for dataset, argument in zip(node.inputs, arguments, strict=True):
            if dataset.startswith("params:"):
                yield pytest.param(node, dataset, argument, id=f"{node.name}-{dataset}")


@pytest.mark.parametrize(("node", "dataset", "argument"), parameter_inputs())
def test_every_parameter_of_a_node_is_typed(node, dataset, argument):
    hint = typing.get_type_hints(node.func)[argument]
    if dataset == "params:seed":
        assert hint is int
        return
    assert issubclass(hint, BaseModel)
    field = check_parameters(loader("base")["parameters"])
    for part in dataset.removeprefix("params:").split("."):
        field = getattr(field, part)
    assert type(field) is hint


def test_kedro_itself_builds_the_models():
    from kedro.validation import ParameterValidator

    raw = check_parameters(loader("base")["parameters"]).model_dump()
    typed = ParameterValidator(PIPELINES).validate_raw_params(raw)
    models = set(typed) - {"seed", "finetune"}
    assert all(isinstance(typed[name], BaseModel) for name in models)
    assert all(isinstance(part, BaseModel) for part in typed["finetune"].values())


def test_every_node_and_pipeline_is_named_described_and_tagged():
    for node in PIPELINES["__default__"].nodes:
        assert node.namespace
        assert node.tags
        assert node.func.__doc__, node.name
    names = [node.short_name for node in PIPELINES["__default__"].nodes]
    assert len(names) == len(set(names))


def test_every_pipeline_contains_what_it_needs():
    for name, pipeline in PIPELINES.items():
        inputs = {i for i in pipeline.inputs() if not i.startswith("params:")}
        assert inputs == {"raw_files"}, name
    assert set(PIPELINES) == {
        "__default__", "ingestion", "modality_conversion", "backbone", "pretrain", "finetune",
        "evaluation",
    }  # fmt: skip


def test_listing_imports_neither_torch_nor_transformers_nor_mlflow():
    code = (
        "import sys, clickprompt.cli, clickprompt.pipeline_registry as r; r.register_pipelines();"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'sklearn', 'scipy', 'plotly')"
        " if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_project_settings_are_accepted_by_kedro():
    from kedro.framework.project import settings

    configure_project("clickprompt")
    assert settings.DATA_CATALOG_CLASS.__name__ == "WholeFileCatalog"
    assert [type(hook).__name__ for hook in settings.HOOKS] == [
        "ParametersHook",
        "SparkHook",
        "TrackingHook",
    ]
    assert list(settings.DISABLE_HOOKS_FOR_PLUGINS) == ["kedro_mlflow"]
