"""Ids are held against the table once, before the training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clickprompt.modality import arrays
from clickprompt.parameters import ClickStageParameters
from clickprompt.training import parts, stage_run, stages
from clickprompt.training.inputs import check_ids
from tests.training.tiny_run import CTR, training


@pytest.fixture
def embedding(model_input):
    return parts.fresh_ctr(CTR, model_input, 0).embedding


def changed(model_input, row, field, value):
    ids = np.array(model_input.ids)
    ids[row, field] = value
    return replace(model_input, ids=ids)


@pytest.mark.parametrize("rows_per_chunk", [7, 1 << 18])
@pytest.mark.parametrize("row", [0, 20, -1])
@pytest.mark.parametrize("outside", [-1, 0])
def test_an_id_outside_of_its_field_is_named(
    model_input, embedding, monkeypatch, rows_per_chunk, row, outside
):
    monkeypatch.setattr(arrays, "ROWS_PER_CHUNK", rows_per_chunk)
    check_ids(model_input, embedding)
    limit = model_input.field_sizes[1]
    value = limit if outside == 0 else -1
    number = row % len(model_input.ids)
    message = (
        rf"ids of .*model_input must be in 0\.\.{limit - 1} for the field 'movie id', got {value} "
        rf"in row {number}: run the pipeline modality_conversion again"
    )
    with pytest.raises(ValueError, match=message):
        check_ids(changed(model_input, row, 1, value), embedding)


def test_the_largest_id_of_each_field_is_fine(model_input, embedding):
    for field, size in enumerate(model_input.field_sizes):
        check_ids(changed(model_input, 3, field, size - 1), embedding)


def test_another_number_of_fields_is_named(model_input, embedding):
    fewer = replace(model_input, ids=model_input.ids[:, :3])
    message = rf"must have the 4 fields of the CTR model, got the shape \({len(fewer.ids)}, 3\)"
    with pytest.raises(ValueError, match=message):
        check_ids(fewer, embedding)


def test_a_stage_asks_before_it_trains(model_input, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="for the field 'user id', got -5 in row 2"):
        stages.train_backbone(
            model_input=changed(model_input, 2, 0, -5),
            ctr=CTR,
            stage=ClickStageParameters(epochs=1, batch_size=8),
            training=training(tmp_path),
            seed=0,
        )
