"""Does the model input fit the model? Asked once, before the training starts."""

from __future__ import annotations

import numpy as np
from torch import nn

from clickprompt.ctr import CTRModel, FeatureEmbedding
from clickprompt.modality import ModelInput
from clickprompt.modality.arrays import chunks, read_rows
from clickprompt.training.optimizer import feature_embeddings


def check_ids_once(model_input: ModelInput, model: nn.Module) -> None:
    """`check_ids` for the CTR model inside ``model``, whose tables need not look at ids any more.

    Raises:
        ValueError: as `check_ids`.
    """
    ctr = model.get_submodule("ctr")
    assert isinstance(ctr, CTRModel)
    check_ids(model_input, ctr.embedding)
    for embedding in feature_embeddings(model):
        embedding.trusts_ids = True


def check_ids(model_input: ModelInput, embedding: FeatureEmbedding) -> None:
    """Hold the ids of all rows against the table, in pieces, without mapping the whole file.

    On a GPU the table itself does not look at the ids of a batch: one outside of its field would be
    a row of another field without a word.

    Raises:
        ValueError: another number of fields than the model's, or an id outside of its field; the
            latter names field, limits, id and row.
    """
    fields = len(embedding.field_sizes)
    if model_input.ids.ndim != 2 or model_input.ids.shape[1] != fields:
        raise ValueError(
            f"ids of {model_input.folder} must have the {fields} fields of the CTR model, "
            f"got the shape {model_input.ids.shape}"
        )
    limits_F = embedding.id_limits.cpu().numpy()
    for rows in chunks(len(model_input.ids)):
        x_id_BF = read_rows(model_input.ids, rows)
        if (x_id_BF.min(axis=0) >= 0).all() and (x_id_BF.max(axis=0) < limits_F).all():
            continue
        row, field = np.argwhere((x_id_BF < 0) | (x_id_BF >= limits_F))[0]
        raise ValueError(
            f"ids of {model_input.folder} must be in 0..{limits_F[field] - 1} for the field "
            f"{model_input.metadata['fields'][field]['name']!r}, got {x_id_BF[row, field]} in row "
            f"{rows.start + row}: run the pipeline modality_conversion again"
        )
