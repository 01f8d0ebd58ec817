"""DNN and DCNv2 against slow twins and against the numbers of the authors' code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clickprompt.ctr import CTRModel, build_ctr
from clickprompt.parameters import CTRParameters
from tests.reference import ctr_twins

GOLDEN = Path(__file__).parents[1] / "golden"
FIELD_SIZES = (5, 7, 3, 11)
# Members of field 1's four combinations: padded on the right, and once in the middle.
BAG = np.array([[0, -1, -1], [1, 2, -1], [3, -1, 6], [4, 5, 2]])


def _layers(state: dict[str, np.ndarray], prefix: str) -> ctr_twins.Layers:
    names = sorted({name.rpartition(".")[0] for name in state if name.startswith(prefix)})
    return [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]


def _weights(state: dict[str, np.ndarray]) -> ctr_twins.Weights:
    """Our parameter names -> the twin's plain arrays."""
    return ctr_twins.Weights(
        table=state["embedding.weight"],
        deep=_layers(state, "deep."),
        head=_layers(state, "head")[0],
        cross=_layers(state, "cross."),
    )


def _run(model: CTRModel, x_id_BF: np.ndarray, coefficients_B: np.ndarray):
    """Representation, logits and gradients by name, as arrays."""
    x_id = torch.from_numpy(x_id_BF)
    representation_BD = model.representation(x_id)
    logits_B = model.logits(representation_BD, x_id)
    (torch.from_numpy(coefficients_B) * logits_B).sum().backward()
    grads = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    return representation_BD.detach().numpy(), logits_B.detach().numpy(), grads


@pytest.mark.parametrize("bags", [None, {1: BAG}], ids=["plain", "bag"])
@pytest.mark.parametrize("name", ["dnn", "dcnv2"])
def test_twin(name, bags):
    ctr = CTRParameters(name=name, embedding_size=6, hidden_sizes=(10, 9, 7), cross_layers=3)
    model = build_ctr(ctr, FIELD_SIZES, bags).double()
    for phase, weight in enumerate(model.parameters()):
        weight.data = torch.from_numpy(ctr_twins.fill(tuple(weight.shape), phase))
    x_id_BF = np.array([[0, 1, 2, 10], [4, 3, 0, 0], [2, 2, 1, 5], [4, 0, 2, 10], [1, 3, 1, 7]])
    coefficients_B = np.array([0.7, -1.3, 0.4, 2.1, -0.2])

    offsets = [0, 5, 12, 15]
    rows = [[[offset + i] for offset, i in zip(offsets, ids, strict=True)] for ids in x_id_BF]
    if bags:
        for members, ids in zip(rows, x_id_BF, strict=True):
            members[1] = [offsets[1] + m for m in BAG[ids[1]] if m >= 0]
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    expected = ctr_twins.run(_weights(state), rows, coefficients_B)
    representation_BD, logits_B, grads = _run(model, x_id_BF, coefficients_B)

    np.testing.assert_allclose(representation_BD, expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(logits_B, expected[1], rtol=1e-9, atol=1e-12)
    found = _weights(grads)
    np.testing.assert_allclose(found.table, expected[2].table, rtol=1e-9, atol=1e-12)
    for part in ("deep", "cross"):
        pairs = zip(getattr(found, part), getattr(expected[2], part), strict=True)
        for ours, twins in pairs:
            np.testing.assert_allclose(ours[0], twins[0], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(ours[1], twins[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.head[0], expected[2].head[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.head[1], expected[2].head[1], rtol=1e-9, atol=1e-12)


# Our module -> the reference's, per case (tests/golden/README.md).
GOLDEN_MODULES = {
    "ctr_dnn": {
        "embedding": "embed.embedding",
        "deep.layers.0": "dnn.dnn.0",
        "deep.layers.2": "dnn.dnn.3",
        "head": "fc_out",
    },
    "ctr_dcnv2": {
        "embedding": "embed.embedding",
        "cross.0": "cross_net.cross_layers.0",
        "cross.1": "cross_net.cross_layers.1",
        "deep.layers.0": "parallel_dnn.dnn.0",
        "deep.layers.2": "parallel_dnn.dnn.3",
        "head": "fc_out",
    },
}


@pytest.mark.parametrize("case", GOLDEN_MODULES)
def test_golden_numbers_of_the_authors_code(case):
    arrays = np.load(GOLDEN / f"{case}.npz")
    sizes = json.loads((GOLDEN / f"{case}.json").read_text())["ctr_model"]
    ctr = CTRParameters(
        name=case.removeprefix("ctr_"),
        embedding_size=sizes["embed_size"],
        hidden_sizes=(sizes["hidden_size"],) * sizes["num_hidden_layers"],
        cross_layers=sizes.get("num_cross_layers", 1),
    )
    model = build_ctr(ctr, sizes["field_sizes"]).double()
    theirs = {}
    for name, _ in model.named_parameters():
        module, _, kind = name.rpartition(".")
        theirs[name] = f"{GOLDEN_MODULES[case][module]}.{kind}"
    assert sorted(f"param/{name}" for name in theirs.values()) == sorted(
        name for name in arrays.files if name.startswith("param/")
    )
    model.load_state_dict(
        {ours: torch.from_numpy(arrays[f"param/{name}"]) for ours, name in theirs.items()}
    )
    representation_BD, logits_B, grads = _run(
        model, arrays["in/x_id_local"], arrays["in/coefficients"]
    )

    np.testing.assert_allclose(representation_BD, arrays["out/representation"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(logits_B, arrays["out/logits"], rtol=0, atol=1e-10)
    for ours, name in theirs.items():
        np.testing.assert_allclose(
            grads[ours], arrays[f"grad/coef/{name}"], rtol=0, atol=1e-10, err_msg=ours
        )
