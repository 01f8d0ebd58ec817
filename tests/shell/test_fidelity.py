"""``fidelity``: what it sets, and that a value that was named wins."""

from __future__ import annotations

from typing import Any

import pytest
from kedro.config import OmegaConfigLoader

from clickprompt.parameters import (
    ParameterError,
    PLMParameters,
    PromptParameters,
    check_parameters,
    reference_settings,
)
from clickprompt.pipelines.modality_conversion.nodes import _longest_text
from clickprompt.settings import CONFIG_LOADER_ARGS
from tests.end_to_end.project import ENVIRONMENTS, REPOSITORY
from tests.plm.tiny import POSITIONS, save_tiny

# Today's choices of the project, as they were before there was a switch.
DEFAULTS = {
    "ctr.attention_heads_layout": "fields",
    "plm.position_offset": 0,
    "pretrain.rows": "train",
    "pretrain.masking.vocabulary": "active",
    "pretrain.masking.tied": True,
    "finetune.with_plm.fusion": "alpha",
    "finetune.with_plm.pool_prompts": False,
    "backbone.learning_rate_biases_and_norms": None,
    "pretrain.learning_rate_biases_and_norms": None,
    "finetune.without_plm.learning_rate_biases_and_norms": None,
    "finetune.with_plm.learning_rate_biases_and_norms": None,
}
# The deviations [R] of the method, with key_value prompts and K = 5.
REFERENCE = {
    "ctr.attention_heads_layout": "memory",
    "plm.position_offset": 5,
    "pretrain.rows": "train_and_valid",
    "pretrain.masking.vocabulary": "full",
    "pretrain.masking.tied": False,
    "finetune.with_plm.fusion": "sum",
    "finetune.with_plm.pool_prompts": False,
    "backbone.learning_rate_biases_and_norms": 1e-3,
    "pretrain.learning_rate_biases_and_norms": 1e-3,
    "finetune.without_plm.learning_rate_biases_and_norms": 1e-3,
    "finetune.with_plm.learning_rate_biases_and_norms": 1e-3,
}
NAMED: dict[str, Any] = {
    "ctr.attention_heads_layout": "fields",
    "plm.position_offset": 2,
    "pretrain.rows": "train",
    "pretrain.masking.vocabulary": "active",
    "pretrain.masking.tied": True,
    "finetune.with_plm.fusion": "alpha",
    "backbone.learning_rate_biases_and_norms": None,
    "pretrain.learning_rate_biases_and_norms": 2e-3,
    "finetune.without_plm.learning_rate_biases_and_norms": None,
    "finetune.with_plm.learning_rate_biases_and_norms": None,
}


def raw(environment: str = "base", **runtime: Any) -> dict[str, Any]:
    loader = OmegaConfigLoader(
        conf_source=str(REPOSITORY / "conf"),
        env=environment,
        runtime_params=runtime,
        **CONFIG_LOADER_ARGS,
    )
    return loader["parameters"]


def values(parameters: dict[str, Any], names: Any) -> dict[str, Any]:
    checked = check_parameters(parameters).model_dump()
    found = {}
    for name in names:
        value: Any = checked
        for part in name.split("."):
            value = value[part]
        found[name] = value
    return found


def nested(name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    return {first: nested(rest, value) if rest else value}


def test_the_switch_knows_the_parameters_of_this_test():
    assert reference_settings("key_value", 5) == REFERENCE
    assert set(DEFAULTS) == set(REFERENCE) == {*NAMED, "finetune.with_plm.pool_prompts"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_default_is_what_it_was(environment):
    assert values(raw(environment), DEFAULTS) == DEFAULTS


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_reference_sets_all_of_them(environment):
    assert values(raw(environment, fidelity="reference"), REFERENCE) == REFERENCE


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_wins(name):
    found = values(raw(fidelity="reference", **nested(name, NAMED[name])), REFERENCE)
    assert found == REFERENCE | {name: NAMED[name]}


@pytest.mark.parametrize("name", NAMED)
def test_each_is_a_parameter_of_its_own(name):
    found = values(raw(**nested(name, REFERENCE[name])), DEFAULTS)
    assert found == DEFAULTS | {name: REFERENCE[name]}


def test_old_configurations_without_the_new_keys_are_what_they_were():
    old = raw()
    old.pop("fidelity")
    for name in DEFAULTS:
        *groups, key = name.split(".")
        group = old
        for part in groups:
            group = group[part]
        group.pop(key, None)
    assert values(old, DEFAULTS) == DEFAULTS
    assert check_parameters(old) == check_parameters(raw())


@pytest.mark.parametrize(
    ("layout", "offset", "pooled"),
    [("key_value", 3, False), ("hidden_state", 3, False), ("input_only", 0, True),
     ("none", 0, False)],
)  # fmt: skip
def test_offset_and_pooling_depend_on_the_layout(layout, offset, pooled):
    parameters = check_parameters(raw(fidelity="reference", prompts={"layout": layout, "count": 3}))
    assert parameters.plm.position_offset == offset
    assert parameters.finetune.with_plm.pool_prompts == pooled


def test_a_chosen_model_is_told_its_heads_where_its_sizes_leave_them_open():
    sizes = {"autoint": {"attention_heads": 4}}
    for fidelity, layout in (("default", "fields"), ("reference", "memory")):
        ctr = check_parameters(raw(fidelity=fidelity, ctr={"name": "autoint"}, ctr_sizes=sizes)).ctr
        assert (ctr.attention_heads, ctr.attention_heads_layout) == (4, layout)
    sizes = {"autoint": {"attention_heads_layout": "fields"}}
    named = raw(fidelity="reference", ctr={"name": "autoint"}, ctr_sizes=sizes)
    assert check_parameters(named).ctr.attention_heads_layout == "fields"


def test_a_dump_has_the_values_that_were_chosen_and_is_itself_a_configuration():
    for fidelity in ("default", "reference"):
        checked = check_parameters(raw(fidelity=fidelity))
        again = check_parameters(checked.model_dump())
        assert again.model_dump() == checked.model_dump()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fidelity": "paper"}, r"fidelity: Input should be 'default' or 'reference', got 'paper'"),
        (
            {"prompts": {"layout": "input_only", "bottleneck": 8}},
            r"prompts: bottleneck must be null with layout input_only, got 8",
        ),
        (
            {"finetune": {"with_plm": {"pool_prompts": True}}},
            r"  finetune\.with_plm\.pool_prompts must be false with prompts\.layout key_value",
        ),
        (
            {"prompts": {"layout": "input_only"}, "plm": {"freeze_layers": 1}},
            r"plm\.freeze_layers must be 0 with prompts\.layout input_only, .*, got 1",
        ),
        ({"prompts": {"layout": "prefix"}}, r"(?s)1 parameter .*prompts\.layout: .*, got 'prefix'"),
        ({"plm": {"position_offset": -1}}, r"plm\.position_offset: .*equal to 0, got -1"),
        ({"pretrain": {"epochs": -1}}, r"pretrain\.epochs: .*equal to 0, got -1"),
        ({"backbone": {"epochs": 0}}, r"backbone\.epochs: .*equal to 1, got 0"),
        (
            {"fidelity": "reference", "prompts": {"count": "five"}},
            r"(?s)1 parameter .*prompts\.count: .*, got 'five'",
        ),
        ({"fidelity": "reference", "plm": 3}, r"(?s)1 parameter .*plm: .*, got 3"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ParameterError, match=message):
        check_parameters(raw(**changes))


def test_without_prompts_a_bottleneck_does_not_matter():
    assert PromptParameters(layout="none", bottleneck=8).bottleneck == 8


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_offset_takes_positions_from_the_text(family, tmp_path):
    save_tiny(tmp_path, family)

    def longest(**changes: Any) -> int:
        return _longest_text(PLMParameters(source=str(tmp_path), **changes))

    assert longest() == POSITIONS
    assert longest(position_offset=3) == POSITIONS - 3
    assert longest(position_offset=3, max_tokens=POSITIONS - 3) == POSITIONS - 3
    message = r"max_tokens must be at most 21, the position limit .* less plm.position_offset 3, "
    with pytest.raises(ValueError, match=message + "got 22"):
        longest(position_offset=3, max_tokens=22)
    with pytest.raises(ValueError, match=r"position_offset must be at most 20, .* got 21"):
        longest(position_offset=21)
