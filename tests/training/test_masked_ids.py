"""Masked ID modelling: what is masked, what it is sought among, and its loss by a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clickprompt.modality import mask_ids
from clickprompt.models import ClickPromptForPretraining, MaskedIdHead
from clickprompt.parameters import (
    ClickStageParameters,
    MaskedIdParameters,
    MaskingParameters,
    PretrainParameters,
    PromptParameters,
    TrainingParameters,
)
from clickprompt.plm import load_encoder, load_mlm_head, pool
from clickprompt.training import parts, stages
from clickprompt.training.files import load_tensors
from clickprompt.training.machine import choose_machine
from clickprompt.training.objectives import MaskedTokenObjective
from tests.training.tiny_run import CTR, PROMPTS, training

MACHINE = choose_machine(TrainingParameters(precision="float32", device="cpu"))
QUICK = {"epochs": 2, "batch_size": 32, "learning_rate_ctr": 1e-2}


def pretraining(model_input, plm, masked_ids):
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    encoder = load_encoder(plm.model_copy(update={"dropout": 0.0}))
    head = MaskedIdHead(
        representation_size=ctr.representation_size,
        hidden_size=encoder.hidden_size,
        embedding_size=ctr.embedding.embedding_size,
        fields=len(model_input.field_sizes),
    )
    head.initialise(torch.Generator().manual_seed(0))
    model = ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0),
        encoder=encoder,
        mlm_head=load_mlm_head(plm, encoder, generator=torch.Generator().manual_seed(0)),
        id_head=head,
    )
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=MACHINE,
        masking=MaskingParameters(),
        batch_size=32,
        evaluation_batch_size=50,
        seed=5,
        masked_ids=masked_ids,
    )
    return model.eval(), objective


def test_ids_are_masked_with_their_share_and_never_where_nothing_is_known():
    random = np.random.default_rng(0)
    ids = random.integers(0, 5, (20_000, 4)).astype(np.int32)
    masked, row, field = mask_ids(ids, (0, 1, 3), share=0.2, seed=1, epoch=0, step=0)
    assert (ids[row, field] > 0).all()
    assert set(np.unique(field)) == {0, 1, 3}
    assert (masked[row, field] == 0).all()
    changed = masked != ids
    assert changed.sum() == len(row)
    known = (ids[:, [0, 1, 3]] > 0).sum()
    assert len(row) / known == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / known))
    again = mask_ids(ids, (0, 1, 3), share=0.2, seed=1, epoch=0, step=0)
    assert (again[0] == masked).all()
    other = mask_ids(ids, (0, 1, 3), share=0.2, seed=1, epoch=0, step=1)
    assert (other[0] != masked).any()


def test_the_loss_is_that_of_pa_mlm_and_a_slow_search_among_the_ids_of_the_batch(model_input, plm):
    weight = 0.7
    model, objective = pretraining(model_input, plm, MaskedIdParameters(share=0.4, weight=weight))
    _, plain = pretraining(model_input, plm, None)
    rows = np.arange(32)
    batch, alone = objective.prepare(rows, 0, 0), plain.prepare(rows, 0, 0)
    for name in ("x_id_BF", "token_ids_BN", "target_S"):
        assert (getattr(batch, name) == getattr(alone, name)).all(), "PA-MLM stays what it is"
    ids = model_input.ids[rows]
    bags = set(model_input.bags)
    table = model.ctr.embedding.weight
    offsets = np.cumsum([0, *model_input.field_sizes[:-1]])
    losses = []
    with torch.no_grad():
        whole, lengths = plain._text.tokens(rows)
        for row in rows:
            hidden = [f for f in range(ids.shape[1]) if batch.masked_BF[row, f] != ids[row, f]]
            assert not bags & set(hidden)
            left = torch.tensor(batch.masked_BF[[row]])
            q = model.ctr.representation(left)
            text = torch.tensor(whole[[row], : lengths[row]])
            h = pool(model.encoder(text, None), None, "mean")
            for field in hidden:
                head = model.id_head
                inner = torch.tanh(head.join(torch.cat((q, h), dim=1)) + head.field.weight[field])
                asked = head.project(inner)[0]
                candidates = sorted({int(i) for i in ids[:, field]} - {0})
                scores = torch.stack([asked @ table[offsets[field] + i] for i in candidates])
                place = candidates.index(int(ids[row, field]))
                losses.append(-torch.log_softmax(scores, dim=0)[place].item())
        found = objective.loss_sum(model, batch).item()
        of_tokens = plain.loss_sum(model, alone).item()
        metrics = objective.validate(model)
    count = objective.count(batch)
    assert len(losses) == len(batch.row_I) > 10
    expected = of_tokens + weight * count * np.mean(losses)
    assert found == pytest.approx(expected, rel=1e-4)
    assert metrics.keys() - plain.validate(model).keys() == {
        "valid_masked_id_loss",
        "valid_masked_id_accuracy",
    }


def test_parts_of_a_batch_have_the_same_candidates_and_sum_up(model_input, plm):
    model, objective = pretraining(model_input, plm, MaskedIdParameters())
    batch = objective.prepare(np.arange(31), 0, 0)
    whole = objective.loss_sum(model, batch)
    whole.backward()
    gradient = model.id_head.join.weight.grad.clone()
    model.zero_grad()
    thirds = [objective.loss_sum(model, batch.part(number, 3)) for number in range(3)]
    sum(thirds).backward()
    assert sum(thirds).item() == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(model.id_head.join.weight.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layout", ["key_value", "none"])
def test_text_teaches_ids(model_input, plm, tmp_path, layout, caplog):
    """Also without prompts, where nothing else reaches the CTR model."""
    prompts = PROMPTS if layout == "key_value" else PromptParameters(layout="none")
    shared = {"model_input": model_input, "ctr": CTR, "training": training(tmp_path), "seed": 3}
    stage = PretrainParameters(**QUICK | {"epochs": 4}, masked_ids=MaskedIdParameters())
    trained = stages.pretrain(**shared, plm=plm, prompts=prompts, stage=stage)
    history = trained.report["history"]
    assert history[-1]["valid_masked_id_loss"] < history[0]["valid_masked_id_loss"]
    assert trained.report["variant"].endswith("masked IDs")
    assert trained.report["parameter_counts"]["id_head"] > 0
    start = parts.fresh_ctr(CTR, model_input, 3).embedding.weight
    learnt = load_tensors(trained.weights_path)["ctr.embedding.weight"]
    assert not torch.allclose(start, learnt)
    stages.finetune_without_plm(
        **shared, pretrained=trained, stage=ClickStageParameters(epochs=1, batch_size=32)
    )
    assert "untrained CTR model" not in caplog.text
