"""What FGCNN's batch norm does in training, which the twin (evaluation mode) does not see."""

from __future__ import annotations

import pytest
import torch

from clickprompt.ctr import build_ctr
from clickprompt.ctr.fgcnn import FGCNN
from clickprompt.parameters import CTRParameters

FIELD_SIZES = (9, 4, 7, 5, 6)
CTR = CTRParameters(
    name="fgcnn",
    embedding_size=4,
    hidden_sizes=(8,),
    fgcnn_channels=(3, 2),
    fgcnn_kernels=(3, 3),
    fgcnn_pooling=(2, 2),
    fgcnn_recombined=(1, 2),
)


def _model_and_ids(rows: int):
    generator = torch.Generator().manual_seed(0)
    model = build_ctr(CTR, FIELD_SIZES, generator=generator).double()
    columns = [torch.randint(0, size, (rows,), generator=generator) for size in FIELD_SIZES]
    return model, torch.stack(columns, dim=1)


def test_training_normalises_by_the_statistics_of_the_batch():
    """Evaluation with the batch's own mean and variance gives what training gave."""
    model, x_id_BF = _model_and_ids(16)
    for layer in model.generators:
        layer.norm.momentum = 1.0  # the running statistics are those of the last batch
    trained = model.representation(x_id_BF)
    for layer, height in zip(model.generators, (5, 3), strict=True):
        count = 16 * height * 4
        layer.norm.running_var *= (count - 1) / count  # torch keeps the unbiased variance
    torch.testing.assert_close(model.eval().representation(x_id_BF), trained)


def test_evaluation_leaves_the_running_statistics_alone():
    model, x_id_BF = _model_and_ids(16)
    model.representation(x_id_BF)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert any(value.any() for key, value in before.items() if key.endswith("running_mean"))
    model.eval().representation(x_id_BF)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_one_row_can_be_trained_on():
    model, x_id_BF = _model_and_ids(1)
    assert model(x_id_BF).isfinite().all()


def test_heights_are_halved_and_rounded_up():
    model, _ = _model_and_ids(1)
    assert [layer.height for layer in model.generators] == [3, 2]


def test_lists_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match=r"fgcnn's lists must have the same length, got \[1, 2\]"):
        FGCNN(
            field_sizes=FIELD_SIZES,
            embedding_size=4,
            fgcnn_channels=(3, 2),
            fgcnn_kernels=(3, 3),
            fgcnn_pooling=(2,),
            fgcnn_recombined=(1, 2),
            hidden_sizes=(8,),
        )
