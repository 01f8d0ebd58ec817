"""The declared space is checked before any work, and gives values of the parameter's type."""

from __future__ import annotations

import optuna
import pytest

from clickprompt.nested import merged, nested
from clickprompt.parameters import ParameterError, check_parameters
from clickprompt.tuning import TUNED_STAGES, check_space
from clickprompt.tuning.space import Dimension, fixed_parameters
from tests.end_to_end.project import ENVIRONMENTS
from tests.tuning.searches import DECAY, RATE, conf_parameters, raw_parameters


def declare(tmp_path, stage="backbone", **space):
    """The checked space with only these dimensions; conf's own are merged with, hence taken out."""
    default = conf_parameters("base")["tuning"]["space"][stage]
    empty = dict.fromkeys(default)
    whole = {"low": None, "high": None, "log": False, "step": None, "choices": None}
    given = {name: whole | dimension for name, dimension in space.items()}
    raw = raw_parameters(tmp_path, tuning={"space": {stage: empty | given}})
    return check_space(raw, stage)


@pytest.mark.parametrize("stage", TUNED_STAGES)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_default_space_of_every_stage_can_be_used_everywhere(environment, stage):
    raw = conf_parameters(environment)
    space, left_out = check_space(raw, stage)
    assert len(space) >= 2
    assert not left_out
    own = {"backbone": "backbone.", "finetune_without_plm": "finetune.without_plm."}
    assert {f"{own.get(stage, 'finetune.with_plm.')}{last}" for last in (
        "learning_rate_ctr", "weight_decay"
    )} <= {dimension.name for dimension in space}  # fmt: skip


def test_the_type_of_the_parameter_decides(tmp_path):
    space, _ = declare(
        tmp_path,
        **{
            "ctr.embedding_size": {"low": 8, "high": 64, "step": 8},
            "backbone.batch_size": {"low": 32, "high": 512, "log": True},
            "backbone.clip_norm": {"low": 1, "high": 5},
            "ctr.dropout": {"low": 0, "high": 0.5, "step": 0.25},
            "ctr.hidden_sizes": {"choices": [[64], [128, 64]]},
            "ctr.linear": {"choices": [True, False]},
            "backbone.schedule": {"choices": ["linear", "cosine"]},
            "ctr.name": {"choices": ["deepfm", "xdeepfm"]},
        },
    )
    kinds: dict[str, list[str]] = {}
    for dimension in space:
        kinds.setdefault(dimension.kind, []).append(dimension.name.split(".")[1])
    assert kinds == {
        "float": ["dropout", "clip_norm"],
        "int": ["embedding_size", "batch_size"],
        "choice": ["hidden_sizes", "linear", "schedule", "name"],
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [{d.name: d.draw(trial) for d in space} for trial in (study.ask() for _ in range(40))]
    assert {v["ctr.embedding_size"] for v in seen} == set(range(8, 65, 8))
    assert all(type(v["ctr.embedding_size"]) is int for v in seen)
    sizes = sorted(v["backbone.batch_size"] for v in seen)
    assert 32 <= sizes[0] < sizes[-1] <= 512
    assert sizes[20] < 200  # the median of an even draw would be 272, of a logarithmic one 128
    assert all(1 <= v["backbone.clip_norm"] <= 5 for v in seen)
    assert {v["ctr.dropout"] for v in seen} == {0.0, 0.25, 0.5}
    assert {tuple(v["ctr.hidden_sizes"]) for v in seen} == {(64,), (128, 64)}
    assert {v["ctr.linear"] for v in seen} == {True, False}
    for values in seen:
        check_parameters(merged(conf_parameters("base"), nested(values)))


MISTAKES = [
    ("backbone.learning_rate_crt", {"low": 1e-3, "high": 1e-2},
     r"must be the dotted name of a parameter; did you mean 'backbone\.learning_rate_ctr'"),
    ("learning_rate", {"low": 1e-3, "high": 1e-2}, r"the dotted name .* did you mean 'backbone\."),
    ("pretrain.epochs", {"low": 1, "high": 3}, r"must be of ctr\.\*, backbone\.\*"),
    ("data.split.seed", {"low": 1, "high": 3}, r"must be of ctr\.\*"),
    ("seed", {"low": 0, "high": 3}, r"must be of ctr\.\*"),
    ("ctr.dropout", {"low": 0.0, "high": 1.0}, r"high 1\.0 breaks a rule: .*less than 1"),
    (RATE, {"low": -0.1, "high": 1.0}, r"low -0\.1 breaks a rule: .*greater than or equal to 0"),
    ("ctr.name", {"choices": ["dnn", "dnm"]}, r"choice \"dnm\" breaks a rule: .*mean 'dnn'"),
    ("backbone.schedule", {"low": 1, "high": 2}, r"must have choices, since it is no number"),
    ("backbone.epochs", {"low": 1.5, "high": 3}, r"low must be a whole number, got 1\.5"),
    ("backbone.epochs", {"low": 1, "high": 3, "step": 0.5}, r"step must be a whole number"),
    (RATE, {"low": 1e-2, "high": 1e-3}, r"low must be below high 0\.001, got 0\.01"),
    (RATE, {"low": 0.0, "high": 1e-3, "log": True}, r"low must be above 0 with log, got 0"),
    (RATE, {"low": 1e-4, "high": 1e-3, "log": True, "step": 1e-4}, r"step must be null with log"),
    (RATE, {"low": 1, "high": 2, "step": 3}, r"step must be at most high - low 1, got 3"),
    (RATE, {"low": 1e-4}, r"must have low and high, or choices, got neither"),
    (RATE, {"low": 1e-4, "high": 1, "choices": [1, 2]}, r"low and high, got both \(null"),
    (RATE, {"choices": [0.1, 0.1]}, r"two or more different values, got \[0\.1, 0\.1\]"),
    (RATE, {"lo": 1e-4, "high": 1}, r"lo: unknown parameter; did you mean 'low'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dimension", "message"), MISTAKES)
def test_mistakes_in_the_space_are_named(tmp_path, name, dimension, message):
    with pytest.raises(ParameterError, match=message) as caught:
        declare(tmp_path, **{name: dimension})
    assert "tuning.space.backbone" in str(caught.value)
    assert name in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path):
    wrong = {"low": -1.0, "high": -0.5}
    with pytest.raises(ParameterError) as caught:
        declare(tmp_path, **{RATE: wrong, DECAY: wrong})
    assert str(caught.value).count("breaks a rule") == 4  # two ends of two parameters


def test_a_space_of_nothing_is_an_error(tmp_path):
    with pytest.raises(ParameterError, match="must name a parameter at least, got none"):
        declare(tmp_path)


def test_an_unknown_stage_is_named_with_the_nearest(tmp_path):
    raw = raw_parameters(tmp_path, tuning={"space": {"backbon": {}}})
    with pytest.raises(ParameterError, match=r"backbon: unknown .* did you mean 'backbone'"):
        check_space(raw, "backbone")


def test_sizes_that_the_model_does_not_read_are_left_out(tmp_path):
    space, left_out = check_space(raw_parameters(tmp_path, ctr={"name": "fm"}), "backbone")
    assert [d.name for d in space] == [RATE, DECAY]
    assert left_out == {"ctr.dropout": "fm does not read it"}
    both = {"ctr.name": {"choices": ["fm", "dnn"]}, "ctr.dropout": {"low": 0, "high": 0.5}}
    space, left_out = declare(tmp_path, **both)
    assert {d.name for d in space} == set(both)
    assert not left_out


def test_fixed_are_those_that_decide_the_weights_and_are_not_tuned(tmp_path):
    parameters = check_parameters(raw_parameters(tmp_path))
    space = (Dimension(RATE, "float", 1e-3, 1e-2),)
    fixed = fixed_parameters(parameters, "backbone", space)
    assert fixed["seed"] == 0
    assert fixed["ctr.name"] == "dcnv2"
    assert fixed[DECAY] == 1e-4
    assert RATE not in fixed
    assert not [name for name in fixed if name.startswith(("pretrain", "plm", "tuning", "data"))]
    with_plm = fixed_parameters(parameters, "finetune_with_plm", space)
    plm = {f"plm.{name}" for name in parameters.plm.model_dump()}
    assert plm <= set(with_plm)
    assert "pretrain.masking.share" in with_plm
    assert "backbone.epochs" not in with_plm


def test_nested_and_merged_keep_what_is_not_named():
    assert nested({"a.b.c": 1, "a.b.d": 2, "e": 3}) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    base = {"a": {"b": {"c": 0, "x": 9}}, "y": [1]}
    assert merged(base, nested({"a.b.c": 1})) == {"a": {"b": {"c": 1, "x": 9}}, "y": [1]}
    assert base["a"]["b"]["c"] == 0
