import pytest
from kedro.config import OmegaConfigLoader

from clickprompt.nested import merged
from clickprompt.parameters import ParameterError, StudyParameters, check_parameters
from clickprompt.pipeline_registry import register_pipelines
from clickprompt.settings import CONFIG_LOADER_ARGS
from clickprompt.studies.cells import StudyError, expand, only
from clickprompt.studies.models import MODELS
from tests.end_to_end.project import REPOSITORY


def conf(environment="base"):
    loader = OmegaConfigLoader(
        conf_source=str(REPOSITORY / "conf"), env=environment, **CONFIG_LOADER_ARGS
    )
    return loader["parameters"]


@pytest.fixture(scope="module")
def raw():
    return conf()


def study(**changes):
    declared = {
        "question": "What?",
        "seeds": [0, 1],
        "compare_with": [{"model": "backbone"}],
        "axes": {
            "ctr": ["dcnv2", "dnn"],
            "plm": ["minilm_2", "minilm_4"],
            "model": ["backbone", "clickprompt_without_plm", "clickprompt_with_plm"],
        },
    }
    return StudyParameters.model_validate(declared | changes)


def test_a_cell_for_each_combination_and_seed_seed_by_seed(raw):
    cells = expand("s", study(), raw)
    assert len(cells) == 2 * 2 * 3 * 2
    assert [cell.seed for cell in cells] == [0] * 12 + [1] * 12
    assert cells[0].labels == {"ctr": "dcnv2", "plm": "minilm_2", "model": "backbone"}
    assert cells[4].name == "dcnv2 minilm_4 clickprompt_without_plm seed 0"
    assert cells[4].parameters["plm"]["keep_layers"] == 4


def test_sizes_are_those_of_the_named_ctr_model(raw):
    """The sizes of another model in conf do not stay."""
    sizes = {c.labels["ctr"]: c.parameters["ctr"] for c in expand("s", study(), raw)}
    assert (
        sizes["dnn"]
        == check_parameters(merged(raw, {"ctr": {"name": "dnn"}})).model_dump(mode="json")["ctr"]
    )
    assert sizes["dnn"] != sizes["dcnv2"]


def test_what_does_not_decide_the_weights_is_not_in_the_digest(raw):
    cells = expand("s", study(), raw)
    backbones = [c for c in cells if c.model == "backbone" and c.labels["ctr"] == "dnn"]
    assert len({c.digest("data") for c in backbones if c.seed == 0}) == 1
    assert len({c.digest("data") for c in backbones}) == 2
    with_plm = [c for c in cells if c.model == "clickprompt_with_plm" and c.seed == 0]
    assert len({c.digest("data") for c in with_plm}) == 4
    elsewhere = merged(raw, {"training": {"threads": 1, "device": "cuda", "folder": "x"}})
    assert [c.digest("data") for c in expand("s", study(), elsewhere)] == [
        c.digest("data") for c in cells
    ]
    slower = merged(raw, {"finetune": {"with_plm": {"learning_rate_prompts": 1e-5}}})
    changed = expand("s", study(), slower)
    for before, after in zip(cells, changed, strict=True):
        differs = before.digest("data") != after.digest("data")
        assert differs == (before.model == "clickprompt_with_plm")


def test_both_finetunings_of_a_pretraining_share_its_stage(raw):
    cells = [c for c in expand("s", study(), raw) if c.model != "backbone"]
    begins = {}
    for cell in cells:
        begins.setdefault(cell.begins_with, set()).add(cell.model)
    assert len(begins) == 8  # two CTR models, two language models, two seeds
    assert all(len(models) == 2 for models in begins.values())


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_reads_is_what_its_nodes_are_given(name):
    """The graph is the witness: no parameter that decides the weights is left out."""
    model = MODELS[name]
    pipeline = register_pipelines()[model.pipeline].filter(
        from_inputs=["model_input"], to_outputs=[model.output]
    )
    training = pipeline.only_nodes_with_tags("training")
    given = {i.removeprefix("params:") for i in training.inputs() if i.startswith("params:")}
    given -= {"seed", "training"}
    if model.pipeline == "baseline":  # one node trains all of them, and is given all
        assert {read.split(".")[0] for read in model.reads} <= {g.split(".")[0] for g in given}
    else:
        assert set(model.reads) == given


def test_seeds_of_a_value_limit_its_cells(raw):
    axes = {"model": {"a": {"model": "backbone"}, "b": {"model": "backbone", "seeds": [0]}}}
    declared = study(axes=axes, compare_with=[{"model": "a"}])
    assert [c.name for c in expand("s", declared, raw)] == ["a seed 0", "b seed 0", "a seed 1"]
    # Seeds of the command line that the study does not know are for all.
    assert [c.name for c in expand("s", declared, raw, [7])] == ["a seed 7", "b seed 7"]


def test_left_out_combinations_have_no_cell(raw):
    declared = study(leave_out=[{"model": ["backbone"], "plm": ["minilm_4"]}])
    cells = expand("s", declared, raw)
    assert len(cells) == 20
    assert not [c for c in cells if c.model == "backbone" and c.labels["plm"] == "minilm_4"]


@pytest.mark.parametrize(
    ("filters", "count"),
    [(["model=backbone"], 8), (["model=backbone", "ctr=dnn"], 4), (["ctr=dnn,dcnv2"], 24)],
)
def test_only(raw, filters, count):
    assert len(only(expand("s", study(), raw), study(), filters)) == count


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("DCN, longer", ["DCN, longer"]),
        ("FM,DCN, longer", ["DCN, longer", "FM"]),
        ("DCN, longer, FM", ["DCN, longer", "FM"]),
        ("DCN,FM", ["DCN", "FM"]),
    ],
)
def test_names_with_commas_in_only(raw, wanted, names):
    axes = {"model": {name: {"model": "backbone"} for name in ("DCN", "DCN, longer", "FM")}}
    declared = study(axes=axes, compare_with=[{"model": "FM"}], seeds=[0])
    found = only(expand("s", declared, raw), declared, [f"model={wanted}"])
    assert [cell.labels["model"] for cell in found] == names


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["modle=backbone"], r"--only must be axis=value with an axis of .*did you mean 'model'"),
        (["model"], r"--only must be axis=value"),
        (["ctr=dnm"], r"--only ctr must be of dcnv2, dnn, got 'dnm'; did you mean 'dnn'"),
    ],
)
def test_mistakes_in_only(raw, filters, message):
    with pytest.raises(StudyError, match=message):
        only(expand("s", study(), raw), study(), filters)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"model": ["backbon"]}, r"study s, backbon: model must be one of .*'backbone'"),
        ({"ctr": ["dnn"]}, r"model must be one of .*got None"),
        (
            {"model": ["backbone"], "ctr.hiden_sizes": [1]},
            r"study s, backbone 1: 1 parameter cannot be used.*did you mean 'hidden_sizes'",
        ),
        (
            {"model": ["backbone"], "backbone.epochs": [0]},
            r"backbone.epochs: .* greater than or equal to 1, got 0",
        ),
    ],
)
def test_a_cell_that_cannot_be_used_is_named_before_any_work(raw, axes, message):
    first = next(iter(axes))
    declared = study(axes=axes, compare_with=[{first: axes[first][0]}])
    with pytest.raises(StudyError, match=f"(?s){message}"):
        expand("s", declared, raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 0]}, "must be different numbers from 0 on"),
        ({"compare_with": [{"modle": "backbone"}]}, "compare_with must name axes"),
        ({"compare_with": [{"model": "fm"}]}, "compare_with.model must be of backbone"),
        ({"leave_out": [{"ctr": ["fm"]}]}, "leave_out.ctr must be of dcnv2, dnn, got 'fm'"),
        ({"axes": {"model": []}}, "model must have one or more different values"),
    ],
)
def test_a_declaration_is_checked_with_all_parameters(raw, changes, message):
    declared = study().model_dump(mode="json") | changes
    with pytest.raises(ParameterError, match=message):
        check_parameters(merged(raw, {"studies": {"grids": {"mine": declared}}}))


@pytest.mark.parametrize("name", sorted(conf()["studies"]["grids"]))
def test_every_study_of_conf_can_be_used(raw, name):
    """And a session reads the parameters that the digest is made of."""
    declared = check_parameters(raw).studies.grids[name]
    cells = expand(name, declared, raw, [declared.seeds[0]])
    for cell in cells[:: max(1, len(cells) // 6)]:
        loader = OmegaConfigLoader(
            conf_source=str(REPOSITORY / "conf"),
            env="local",
            runtime_params=cell.runtime_parameters,
            **CONFIG_LOADER_ARGS,
        )
        read = check_parameters(loader["parameters"]).model_dump(mode="json")
        assert read["ctr"] == cell.parameters.get("ctr", read["ctr"])
        assert read["pretrain"] == cell.parameters.get("pretrain", read["pretrain"])
        assert read["seed"] == cell.seed


def test_long_tail_reads_cells_that_compatibility_trains(raw):
    grids = check_parameters(raw).studies.grids
    tail = {c.digest("x") for c in expand("long_tail", grids["long_tail"], raw)}
    trained = {c.digest("x") for c in expand("compatibility", grids["compatibility"], raw)}
    assert not grids["long_tail"].train
    assert tail <= trained


def test_what_was_chosen_on_valid_stands_under_what_the_study_says(raw):
    axes = {"model": {"a": {"model": "backbone"}, "b": {"model": "backbone", "ctr.name": "fm"},
                      "c": {"model": "backbone", "backbone.weight_decay": 0.5},
                      "d": {"model": "p5"}}}  # fmt: skip
    chosen = {
        "backbone": {"dcnv2": {"backbone.weight_decay": 0.1}, "any": {"backbone.epochs": 7}},
        "p5": None,
    }
    changed = raw | {"studies": {"settings": chosen}}
    declared = study(axes=axes, compare_with=[{"model": "a"}], seeds=[0])
    a, b, c, d = expand("s", declared, changed)
    assert a.parameters["backbone"]["weight_decay"] == 0.1
    assert b.parameters["backbone"]["epochs"] == 7
    assert c.parameters["backbone"]["weight_decay"] == 0.5
    assert d.changes == {}


def test_the_paper_environment_has_the_papers_language_models():
    raw = conf("paper")
    declared = check_parameters(raw).studies.grids["compatibility"]
    cells = expand("compatibility", declared, raw, [0])
    assert len({cell.data for cell in cells}) == 3  # three tokenizers
    rates = {c.parameters["backbone"]["learning_rate_ctr"] for c in cells if c.model == "backbone"}
    assert rates == {1e-3}
    assert check_parameters(raw).plm.source == "FacebookAI/roberta-base"
