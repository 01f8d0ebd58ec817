"""The whole model against numbers of the authors' own code, as ``fidelity: reference`` sets it up.

tests/golden/README.md tells what the arrays are; a case file that is added there is tested without
a change here. The twins are cases of the same form that tests/reference makes. All in float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from clickprompt.models import ClickPromptForClicks, ClickPromptForPretraining
from clickprompt.plm.attention import KERNELS
from clickprompt.plm.slots import text_slots
from clickprompt.prompts import InputPrompts, KeyValuePrompts
from tests.plm.golden import CLOSE, POOLINGS, Case, joint_cases
from tests.reference import joint_twin

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = joint_cases(GOLDEN)
TWINS = [
    "bert_dcnv2_input_only_finetune_padded",
    "bert_dnn_input_only_mlm",
    "roberta_dcnv2_finetune_padded",
    "roberta_dcnv2_finetune_padded_unshifted",
    "roberta_dnn_finetune_equal_length",
    "roberta_dcnv2_mlm",
    "roberta_dcnv2_mlm_tied_values",
    "roberta_dnn_input_only_finetune_equal_length",
    "roberta_dcnv2_input_only_finetune_padded",
    "roberta_dcnv2_input_only_mlm",
    "roberta_dnn_input_only_mlm_tied_values",
]


@pytest.fixture(autouse=True)
def _one_thread():
    """Everything is tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def twins(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    for name in TWINS:
        joint_twin.write_case(folder, name)
    return folder


@pytest.fixture
def make_case(request, tmp_path):
    """A case by its name, from tests/golden or (``twin:``) newly made."""

    def make(name: str, **changes: Any) -> Case:
        kind, _, own = name.rpartition(":")
        folder = request.getfixturevalue("twins") if kind else GOLDEN
        return Case(folder, own, tmp_path, **changes)

    return make


def named(task: str) -> list[str]:
    return [n for n in (*CASES, *(f"twin:{n}" for n in TWINS)) if f"_{task}" in n]


def spy(module: torch.nn.Module) -> dict[str, Any]:
    """What goes into a module and comes out, of its last call."""
    seen: dict[str, Any] = {}
    module.register_forward_hook(lambda _, given, made: seen.update(given=given, made=made))
    return seen


def check_positions(case: Case, encoder: torch.nn.Module, run: Any) -> None:
    """The position ids of the columns that have a meaning."""
    seen: list[torch.Tensor] = []

    def keep(module, arguments, keywords):
        seen.append(keywords["position_ids"])

    hook = encoder.model.embeddings.register_forward_pre_hook(keep, with_kwargs=True)
    run()
    hook.remove()
    found_BM = text_slots(case.column_mask).spread(seen[0].T)[..., 0]
    expected = case.tensor("in/position_ids")
    text = expected.shape[1] == case.sizes["N"]
    start = case.column_mask.shape[1] - case.sizes["N"] if text else 0
    at = case.column_mask[:, start:]
    assert torch.equal(found_BM[:, start:][at], expected[at])


def check_prompts(case: Case, prompts: Any) -> None:
    if isinstance(prompts, InputPrompts):
        case.check("out/generator_output", prompts.vector_BKE)
    else:
        assert isinstance(prompts, KeyValuePrompts)
        case.check("out/prompt_keys", prompts.key_BLAKd)
        case.check("out/prompt_values", prompts.value_BLAKd)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "auto"])
@pytest.mark.parametrize("name", named("finetune"))
def test_finetuning(name, kernel, make_case):
    case = make_case(name, plm={"attention": kernel})
    settings = [n.removeprefix("out/loss/") for n in case.arrays if n.startswith("out/loss/")]
    assert settings
    stage = case.parameters.finetune.with_plm
    assert stage.fusion == "sum"
    ctr, encoder = case.ctr(), case.encoder()
    generator = case.generator(ctr, encoder)
    generated, encoded = spy(generator), spy(encoder)
    checked = 0
    for setting in sorted(settings):
        pooling, fusion = setting.split("__")
        model = ClickPromptForClicks(
            ctr=ctr,
            generator=generator,
            encoder=encoder,
            pooling=POOLINGS[pooling],
            fusion="alpha" if fusion == "weighted" else stage.fusion,
            pool_prompts=stage.pool_prompts,
        )
        model.double().eval()
        head = {k.removeprefix("nlp_head."): w for k, w in case.weights.items() if "nlp_head" in k}
        model.click_head.load_state_dict(head)
        if model.alpha is not None:
            model.alpha.data = 1 - case.weights["alpha"].double()[0]
        model.zero_grad()
        pooled = spy(model.click_head)
        arguments = (case.tensor("in/x_id_local"), case.tensor("in/input_ids"), case.text_mask)
        logit_B = model(*arguments)
        loss = functional.binary_cross_entropy_with_logits(
            logit_B, case.tensor("in/label").double()
        )
        loss.backward()
        case.check("out/q", generated["given"][0])
        check_prompts(case, generated["made"])
        hiddens = encoded["made"]
        states = case.tensor("out/hidden_states")[1:]
        states = states[-1:] if isinstance(hiddens, torch.Tensor) else states
        hiddens = (hiddens,) if isinstance(hiddens, torch.Tensor) else hiddens
        for hidden_BMH, state in zip(hiddens, states, strict=True):
            found = hidden_BMH.detach()[case.column_mask]
            np.testing.assert_allclose(found, state[case.column_mask], **CLOSE)
        case.check(f"out/pooled/{pooling}", pooled["given"][0])
        case.check(f"out/z_plm/{pooling}", pooled["made"])
        case.check("out/z_ctr", ctr.logits(generated["given"][0], arguments[0]))
        case.check(f"out/logit/{setting}", logit_B)
        case.check(f"out/loss/{setting}", loss)
        checked += case.check_gradients(setting, model)
    check_positions(case, model.encoder, lambda: model(*arguments))
    assert checked == len([n for n in case.arrays if n.startswith("grad/")]) > 0


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "auto"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", named("mlm"))
def test_pretraining(name, tied, kernel, make_case):
    """A tied decoder where the case's decoder has the values of the word embeddings."""
    if tied and not name.endswith("_tied_values"):
        tied = False
    changes = {"pretrain": {"masking": {"tied": True}}} if tied else {}
    case = make_case(name, plm={"attention": kernel}, **changes)
    assert case.parameters.pretrain.masking.tied == tied
    assert case.parameters.pretrain.masking.vocabulary == "full"
    ctr, encoder = case.ctr(), case.encoder()
    model = ClickPromptForPretraining(
        ctr=ctr,
        generator=case.generator(ctr, encoder),
        encoder=encoder,
        mlm_head=case.mlm_head(encoder),
    )
    model.double().eval()
    generated = spy(model.generator)
    rows_S, columns_S = case.tensor("in/selected").T
    text = (case.tensor("in/masked_input_ids"), case.text_mask)
    logits_SV = model(case.tensor("in/x_id_local"), *text, rows_S, columns_S)
    targets_S = case.tensor("in/mlm_labels")[rows_S, columns_S]
    loss = functional.cross_entropy(logits_SV, targets_S)
    loss.backward()
    case.check("out/q", generated["given"][0])
    check_prompts(case, generated["made"])
    case.check("out/logits_selected", logits_SV)
    case.check("out/loss", loss)
    table, decoder = "nlp_encoder.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
    if tied:
        total = case.arrays[f"grad/mlm/{table}"] + case.arrays[f"grad/mlm/{decoder}"]
        np.testing.assert_allclose(encoder.word_embeddings.weight.grad, total, **CLOSE)
    checked = case.check_gradients("mlm", model, skip=(table, decoder) if tied else ())
    assert checked == len([n for n in case.arrays if n.startswith("grad/mlm/")]) > 0

    def whole():  # all columns, which the model itself does not compute in the last layer
        with torch.no_grad():
            return encoder(*text, generated["made"], with_prompts=case.input_only)

    case.check("out/last_hidden", whole(), at=case.column_mask)
    check_positions(case, encoder, whole)


@pytest.mark.parametrize("name", CASES)
def test_the_twin_is_the_authors_code(name):
    """What tests/reference computes from a published case's weights are that case's numbers."""
    about = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    given = {k: v for k, v in arrays.items() if k.startswith(("param/", "in/"))}
    found = joint_twin.compute(about, given)
    mask_BN = arrays["in/attention_mask"].astype(bool)
    if found.keys() & {"out/generator_output"}:
        mask_BN = np.pad(mask_BN, ((0, 0), (about["sizes"]["K"], 0)), constant_values=True)
    compared = 0
    for key, array in arrays.items():
        if key not in found:
            continue
        compared += 1
        ours = found[key]
        if key == "out/last_hidden":
            ours, array = ours[mask_BN], array[mask_BN]
        if key == "out/hidden_states":
            ours, array = ours[:, mask_BN], array[:, mask_BN]
        np.testing.assert_allclose(ours, array, rtol=1e-9, atol=1e-11, err_msg=key)
    assert compared >= (70 if "_mlm" in name else 40)


def test_published_cases_are_all_there():
    published = [name for name in CASES if name.startswith("bert_") and "input_only" not in name]
    assert len(published) >= 9
    for name in published:
        about = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
        full = about["gradients"].get("mlm" if "_mlm" in name else "avg__sum", ())
        assert len(full) >= (60 if name.endswith(("_mlm", "_finetune_padded")) else 5)
    assert set(named("finetune")) | set(named("mlm")) == {*CASES, *(f"twin:{n}" for n in TWINS)}


def test_shifted_positions_count_towards_the_limit(make_case):
    encoder = make_case("bert_dcnv2_mlm").encoder()
    assert encoder.position_limit == 64 - 3
    with pytest.raises(ValueError, match=r"at most 61 tokens .* got 62"):
        encoder(torch.full((1, 62), 7), None)


def test_prompts_in_front_count_towards_the_limit(make_case):
    case = make_case("twin:bert_dnn_input_only_mlm")
    encoder = case.encoder()
    assert encoder.position_limit == 64, "they have positions themselves, the text is not shifted"
    written = case.generator(case.ctr(), encoder)(torch.zeros(1, case.sizes["D"]))
    with pytest.raises(ValueError, match=r"at most 61 tokens .* after 3 prompts\), got 62"):
        encoder(torch.full((1, 62), 7), None, written)
