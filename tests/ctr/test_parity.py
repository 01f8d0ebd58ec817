"""The CTR models against slow twins and against the numbers of the authors' code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clickprompt.ctr import CTRModel, build_ctr
from clickprompt.parameters import CTR_MODELS, CTRParameters
from tests.reference import ctr_model_twins, ctr_twins
from tests.reference.ctr_names import reference_name
from tests.reference.golden_ctr import ctr_name, ctr_parameters

GOLDEN = Path(__file__).parents[1] / "golden"
FIELD_SIZES = (5, 7, 3, 11)
# Members of field 1's four combinations: padded on the right, and once in the middle.
BAG = np.array([[0, -1, -1], [1, 2, -1], [3, -1, 6], [4, 5, 2]])
X_ID_BF = np.array([[0, 1, 2, 10], [4, 3, 0, 0], [2, 2, 1, 5], [4, 0, 2, 10], [1, 3, 1, 7]])
COEFFICIENTS_B = np.array([0.7, -1.3, 0.4, 2.1, -0.2])
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def _run(model: CTRModel, x_id_BF: np.ndarray, coefficients_B: np.ndarray):
    """Representation, logits and gradients by name, as arrays."""
    x_id = torch.from_numpy(x_id_BF)
    representation_BD = model.representation(x_id)
    logits_B = model.logits(representation_BD, x_id)
    (torch.from_numpy(coefficients_B) * logits_B).sum().backward()
    grads = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    return representation_BD.detach().numpy(), logits_B.detach().numpy(), grads


def _fill(model: CTRModel) -> None:
    """Deterministic weights and running statistics, in evaluation mode and float64."""
    model.double().eval()
    for phase, (name, weight) in enumerate(model.named_parameters()):
        weight.data = torch.from_numpy(ctr_twins.fill(tuple(weight.shape), phase))
        if ".norm." in name:
            weight.data += 1
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            size = tuple(norm.running_mean.shape)
            norm.running_mean.copy_(torch.from_numpy(ctr_twins.fill(size, 0.5)))
            norm.running_var.copy_(1 + torch.from_numpy(ctr_twins.fill(size, 0.9)))


def _rows(x_id_BF: np.ndarray, offsets: np.ndarray, bagged: bool) -> list[list[list[int]]]:
    """Table rows of every field of every row."""
    rows = [[[int(o + i)] for o, i in zip(offsets, ids, strict=True)] for ids in x_id_BF]
    if bagged:
        for members, ids in zip(rows, x_id_BF, strict=True):
            members[1] = [int(offsets[1] + m) for m in BAG[ids[1]] if m >= 0]
    return rows


# --- twins of DNN and DCNv2 -------------------------------------------------------------------


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


@pytest.mark.parametrize("bags", [None, {1: BAG}], ids=["plain", "bag"])
@pytest.mark.parametrize("name", ["dnn", "dcnv2"])
def test_twin_of_dnn_and_dcnv2(name, bags):
    ctr = CTRParameters(name=name, embedding_size=6, hidden_sizes=(10, 9, 7), cross_layers=3)
    model = build_ctr(ctr, FIELD_SIZES, bags)
    _fill(model)
    rows = _rows(X_ID_BF, np.array([0, 5, 12, 15]), bool(bags))
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    expected = ctr_twins.run(_weights(state), rows, COEFFICIENTS_B)
    representation_BD, logits_B, grads = _run(model, X_ID_BF, COEFFICIENTS_B)

    np.testing.assert_allclose(representation_BD, expected[0], **CLOSE)
    np.testing.assert_allclose(logits_B, expected[1], **CLOSE)
    found = _weights(grads)
    np.testing.assert_allclose(found.table, expected[2].table, **CLOSE)
    for part in ("deep", "cross"):
        pairs = zip(getattr(found, part), getattr(expected[2], part), strict=True)
        for ours, twins in pairs:
            np.testing.assert_allclose(ours[0], twins[0], **CLOSE)
            np.testing.assert_allclose(ours[1], twins[1], **CLOSE)
    np.testing.assert_allclose(found.head[0], expected[2].head[0], **CLOSE)
    np.testing.assert_allclose(found.head[1], expected[2].head[1], **CLOSE)


# --- twins of the other eight -----------------------------------------------------------------

# Case -> model, sizes, what the twin cannot see in the weights.
TWIN_CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fm": ("fm", {}, {}),
    "fm_linear": ("fm", {"linear": True}, {}),
    "deepfm": ("deepfm", {}, {}),
    "deepfm_linear": ("deepfm", {"linear": True}, {}),
    "xdeepfm": ("xdeepfm", {"cin_sizes": (5, 3, 4)}, {}),
    "xdeepfm_one_layer": ("xdeepfm", {"cin_sizes": (3,)}, {}),
    "xdeepfm_two_layers_alone": ("xdeepfm", {"cin_sizes": (3, 2), "hidden_sizes": ()}, {}),
    "xdeepfm_five_layers": ("xdeepfm", {"cin_sizes": (3, 2, 4, 3, 2), "linear": True}, {}),
    "pnn": ("pnn", {}, {}),
    "dcn": ("dcn", {"cross_layers": 3}, {}),
    "dcn_alone": ("dcn", {"cross_layers": 1, "hidden_sizes": ()}, {}),
    "autoint": ("autoint", {"attention_layers": 2, "attention_size": 6}, {}),
    "autoint_heads": (
        "autoint",
        {
            "attention_layers": 2,
            "attention_size": 4,
            "attention_heads": 2,
            "attention_scale": True,
            "hidden_sizes": (),
        },
        {"heads": 2, "scale": True},
    ),
    "autoint_heads_in_memory": (
        "autoint",
        {
            "attention_layers": 2,
            "attention_size": 3,
            "attention_heads": 2,
            "attention_heads_layout": "memory",
        },
        {"heads": 2, "layout": "memory"},
    ),
    "autoint_no_residual": ("autoint", {"attention_layers": 2, "residual": False}, {}),
    "fignn": ("fignn", {"graph_layers": 3}, {"steps": 3}),
    "fignn_not_shared": (
        "fignn",
        {"graph_layers": 2, "graph_shared": False, "residual": False},
        {"steps": 2, "residual": False},
    ),
    "fgcnn": (
        "fgcnn",
        {
            "fgcnn_channels": (2, 3),
            "fgcnn_kernels": (3, 5),
            "fgcnn_pooling": (2, 2),
            "fgcnn_recombined": (2, 1),
        },
        {"pooling": (2, 2)},
    ),
    "fgcnn_pooling": (
        "fgcnn",
        {
            "fgcnn_channels": (2, 2),
            "fgcnn_kernels": (1, 3),
            "fgcnn_pooling": (3, 1),
            "fgcnn_recombined": (1, 2),
        },
        {"pooling": (3, 1)},
    ),
}


def _to_reference(model: str, arrays: dict[str, np.ndarray], shared: bool) -> dict[str, np.ndarray]:
    """Arrays under the authors' names and in their shapes."""
    found = {}
    for name, array in arrays.items():
        theirs = reference_name(model, name, shared=shared)
        is_convolution = theirs.startswith("cin.") and theirs.endswith("weight")
        found[theirs] = array[..., None] if is_convolution else array
    return found


def _check_twin(case: str, field_sizes: tuple[int, ...], x_id_BF: np.ndarray, bagged: bool):
    name, sizes, options = TWIN_CASES[case]
    sizes = {"embedding_size": 4, "hidden_sizes": (7, 6), **sizes}
    if name == "autoint" and not sizes.get("residual", True):
        sizes["attention_size"] = 5
    if name == "autoint":
        options = {"residual": sizes.get("residual", True), **options}
    ctr = CTRParameters(name=name, **sizes)
    model = build_ctr(ctr, field_sizes, {1: BAG} if bagged else None)
    _fill(model)
    shared = name == "fignn" and ctr.graph_shared
    state = {
        key: value.numpy()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    rows = _rows(x_id_BF, np.cumsum([0, *field_sizes[:-1]]), bagged)
    expected = ctr_model_twins.run(
        name, _to_reference(name, state, shared), rows, COEFFICIENTS_B, **options
    )
    representation_BD, logits_B, grads = _run(model, x_id_BF, COEFFICIENTS_B)

    np.testing.assert_allclose(representation_BD, expected[0], **CLOSE)
    np.testing.assert_allclose(logits_B, expected[1], **CLOSE)
    found = _to_reference(name, grads, shared)
    assert set(found) == {key for key in expected[2] if "running_" not in key}
    for key, grad in found.items():
        assert grad.any(), f"{key} has no gradient to compare"
        np.testing.assert_allclose(grad, expected[2][key], err_msg=key, **CLOSE)


@pytest.mark.parametrize("case", TWIN_CASES)
def test_twin(case):
    _check_twin(case, FIELD_SIZES, X_ID_BF, bagged=False)


@pytest.mark.parametrize(
    "case", ["fm_linear", "deepfm_linear", "xdeepfm", "pnn", "dcn", "autoint", "fignn", "fgcnn"]
)
def test_twin_with_a_bag_field(case):
    _check_twin(case, FIELD_SIZES, X_ID_BF, bagged=True)


@pytest.mark.parametrize("case", ["pnn", "fgcnn", "fignn"])
def test_twin_with_five_fields(case):
    """An odd number: FGCNN pads before it pools."""
    x_id_BF = np.concatenate([X_ID_BF, np.array([[0], [3], [1], [1], [2]])], axis=1)
    _check_twin(case, (*FIELD_SIZES, 4), x_id_BF, bagged=False)


@pytest.mark.parametrize("heads", [1, 2])
def test_one_head_is_the_same_in_memory(heads):
    sizes = {"embedding_size": 4, "attention_size": 3, "attention_heads": heads}
    found = []
    for layout in ("fields", "memory"):
        ctr = CTRParameters(name="autoint", attention_heads_layout=layout, **sizes)
        model = build_ctr(ctr, FIELD_SIZES)
        _fill(model)
        found.append(model(torch.from_numpy(X_ID_BF)))
    assert torch.allclose(*found, rtol=0, atol=1e-12) == (heads == 1)


def test_every_model_has_a_twin():
    assert {"dnn", "dcnv2", *(case[0] for case in TWIN_CASES.values())} == set(CTR_MODELS)
    assert set(ctr_model_twins.TWINS) == set(CTR_MODELS) - {"dnn", "dcnv2"}


# --- numbers of the authors' code -------------------------------------------------------------

# All cases that lie there: one that is added is tested without a change here.
GOLDEN_CASES = sorted(path.stem for path in GOLDEN.glob("ctr_*.npz"))


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_numbers_of_the_authors_code(case):
    _check_golden(GOLDEN, case)


def _check_golden(folder: Path, case: str) -> None:
    with np.load(folder / f"{case}.npz") as file:
        arrays = dict(file)
    about = json.loads((folder / f"{case}.json").read_text())["ctr_model"]
    name = ctr_name(case.split("_")[1])
    given = {
        key.partition("/")[2]: arrays[key]
        for key in arrays
        if key.startswith(("param/", "buffer/")) and np.issubdtype(arrays[key].dtype, np.floating)
    }
    ctr = ctr_parameters(name, about, {key: array.shape for key, array in given.items()})
    model = build_ctr(ctr, about["field_sizes"]).double().eval()
    shared = name == "fignn" and ctr.graph_shared

    own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    theirs = {key: reference_name(name, key, shared=shared) for key in own}
    assert sorted(theirs.values()) == sorted(given)
    loaded = {
        key: torch.from_numpy(given[theirs[key]]).reshape(value.shape) for key, value in own.items()
    }
    assert not model.load_state_dict(loaded, strict=False).unexpected_keys
    representation_BD, logits_B, grads = _run(
        model, arrays["in/x_id_local"], arrays["in/coefficients"]
    )

    pooled = "out/extra/bi_interaction"
    expected = arrays[pooled if name == "fm" else "out/representation"]
    np.testing.assert_allclose(representation_BD, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(logits_B, arrays["out/logits"], rtol=0, atol=1e-10)
    for key, grad in grads.items():
        expected = arrays[f"grad/coef/{theirs[key]}"].reshape(grad.shape)
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-10, err_msg=key)


def test_golden_cases_are_all_there():
    models = {ctr_name(case.split("_")[1]) for case in GOLDEN_CASES}
    assert models >= {"fm", "dnn", "deepfm", "dcn", "autoint", "dcnv2"}


HELD_BACK = {
    "ctr_xdeepfm": ("xdeepfm", {"cin_sizes": (5, 4)}, {}, {"num_hidden_layers": 2}),
    "ctr_ipnn": ("pnn", {}, {}, {"num_hidden_layers": 2}),
    "ctr_fignn": (
        "fignn",
        {"graph_layers": 3},
        {"steps": 3},
        {"num_hidden_layers": 3, "res_conn": True, "reuse_graph_layer": True},
    ),
    "ctr_fgcnn_five_fields": (
        "fgcnn",
        {
            "fgcnn_channels": (2, 3),
            "fgcnn_kernels": (3, 3),
            "fgcnn_pooling": (2, 2),
            "fgcnn_recombined": (2, 1),
        },
        {"pooling": (2, 2)},
        {"pooling_sizes": "2|2", "num_hidden_layers": 2},
    ),
}


@pytest.mark.parametrize("case", HELD_BACK)
def test_cases_of_the_other_models_can_be_read(case, tmp_path):
    """Files in the form of tests/golden, with the numbers of the twins."""
    name, sizes, options, about = HELD_BACK[case]
    fields = (*FIELD_SIZES, 4) if "five" in case else FIELD_SIZES
    x_id_BF = np.concatenate([X_ID_BF, [[0], [3], [1], [1], [2]]], axis=1)[:, : len(fields)]
    sizes = {"embedding_size": 8, "hidden_sizes": (16, 16), **sizes}
    model = build_ctr(CTRParameters(name=name, **sizes), fields)
    _fill(model)
    state = {
        key: value.numpy()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    weights = _to_reference(name, state, name == "fignn")
    rows = _rows(x_id_BF, np.cumsum([0, *fields[:-1]]), bagged=False)
    q_BD, logits_B, grads = ctr_model_twins.run(name, weights, rows, COEFFICIENTS_B, **options)
    arrays = {f"{'buffer' if 'running' in key else 'param'}/{key}": weights[key] for key in weights}
    arrays |= {f"grad/coef/{key}": grads[key] for key in grads if "running" not in key}
    np.savez(
        tmp_path / f"{case}.npz",
        **arrays,
        **{"in/x_id_local": x_id_BF, "in/coefficients": COEFFICIENTS_B},
        **{"out/representation": q_BD, "out/logits": logits_B},
    )
    described = {"ctr_model": {"model": case, "field_sizes": list(fields), **about}}
    (tmp_path / f"{case}.json").write_text(json.dumps(described))
    _check_golden(tmp_path, case)
