"""The exported graphs: torch's float32 numbers through onnxruntime, at every batch and length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clickprompt.modality import TextBatcher
from clickprompt.serving import Bundle, Scorer
from clickprompt.serving.onnx import OnnxModel, export_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROWS = 10_000


@pytest.mark.parametrize("name", ["without_plm", "with_plm"])
def test_equals_torch_on_ten_thousand_rows(bundles, model_input, tmp_path, name):
    """Rows of the data, with ids shuffled between them, so that all are different."""
    path = export_onnx(bundles[name], tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    exported, model = OnnxModel(path, threads=1), Bundle.open(bundles[name]).build()
    generator = np.random.default_rng(0)
    rows = generator.integers(0, len(model_input.ids), ROWS)
    ids = np.stack([generator.permutation(column) for column in model_input.ids[rows].T], axis=1)
    if name == "without_plm":
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        found = exported.logits(ids)
    else:
        expected, found = np.empty(ROWS), np.empty(ROWS)
        text = TextBatcher(model_input)
        for start in range(0, ROWS, 500):
            part = slice(start, start + 500)
            token_ids, lengths = text.tokens(rows[part], 8)
            mask = np.arange(token_ids.shape[1]) < lengths[:, None]
            with torch.inference_mode():
                expected[part] = model(*map(torch.from_numpy, (ids[part], token_ids, mask)))
            found[part] = exported.logits(ids[part], token_ids, lengths)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05


def test_axes_and_opset(bundles, model_input, tmp_path):
    path = export_onnx(bundles["with_plm"], tmp_path / "model.onnx")
    graph = onnx.load(path)
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    axes = {
        entry.name: [axis.dim_param or axis.dim_value for axis in entry.type.tensor_type.shape.dim]
        for entry in graph.graph.input
    }
    fields = len(model_input.field_sizes)
    assert axes["x_id"] == ["batch", fields]
    assert axes["token_ids"] == axes["mask"] == ["batch", "length"]
    exported = OnnxModel(path)
    model = Bundle.open(bundles["with_plm"]).build()
    text = TextBatcher(model_input)
    for rows, multiple in ((np.arange(1), 1), (np.arange(17), 8), (np.arange(65), 16)):
        token_ids, lengths = text.tokens(rows, multiple)
        mask = np.arange(token_ids.shape[1]) < lengths[:, None]
        ids = np.array(model_input.ids[rows])
        with torch.inference_mode():
            expected = model(*map(torch.from_numpy, (ids, token_ids, mask))).numpy()
        found = exported.logits(ids, token_ids, lengths)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_bag_fields_need_a_scorer(bundles, tmp_path):
    scorer = Scorer(bundles["without_plm"])
    exported = OnnxModel(export_onnx(bundles["without_plm"], tmp_path / "model.onnx"))
    with pytest.raises(ValueError, match=r"must have no bag fields, .* got 1: use a Scorer"):
        exported.logits_of(scorer.converter.convert([{"user_id": "7"}]))
