"""The baselines against slow twins: losses, independence of the towers, frozen vectors, stages."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from clickprompt.baselines import (
    P5,
    CTRBert,
    CTRLForAlignment,
    PTab,
    TextFeatureCTR,
    encode_pieces,
    info_nce,
    load_t5,
    question_tokens,
    random_t5,
)
from clickprompt.modality import TextBatcher
from clickprompt.parameters import (
    AlignParameters,
    ClickStageParameters,
    CTRBertParameters,
    CTRLParameters,
    DistillationParameters,
    FinetuneWithPLMParameters,
    P5Parameters,
    PretrainParameters,
    PTabParameters,
    TextFeaturesParameters,
    TextStageParameters,
    TrainingParameters,
)
from clickprompt.plm import load_encoder, pool
from clickprompt.training import baselines, parts, stages
from clickprompt.training.baseline_objectives import (
    AlignmentObjective,
    DistilledClickObjective,
    PieceClickObjective,
    QuestionClickObjective,
    TextClickObjective,
    TwoTowerClickObjective,
)
from clickprompt.training.files import load_tensors
from clickprompt.training.machine import choose_machine
from clickprompt.training.objectives import ClickObjective
from clickprompt.training.optimizer import parameter_groups
from tests.training.tiny_run import CTR, FIELDS, PROMPTS, training

MACHINE = choose_machine(TrainingParameters(precision="float32", device="cpu"))
QUICK = {"epochs": 2, "batch_size": 32}
USER_FIELDS = (0,)


def settings(model_input):
    return {
        "model_input": model_input,
        "machine": MACHINE,
        "batch_size": 32,
        "evaluation_batch_size": 50,
        "seed": 5,
    }


def frozen(plm):
    return load_encoder(plm.model_copy(update={"dropout": 0.0}))


# --- InfoNCE --------------------------------------------------------------------------


def slow_info_nce(u, v, temperature, same):
    """Loss and its gradients by u and v, pair by pair."""
    rows, loss = len(u), 0.0
    grad_u, grad_v = np.zeros_like(u), np.zeros_like(v)
    for a, b, grad_a, grad_b in ((u, v, grad_u, grad_v), (v, u, grad_v, grad_u)):
        for i in range(rows):
            others = [j for j in range(rows) if j == i or not same[i][j]]
            scores = [
                sum(x * y for x, y in zip(a[i], b[j], strict=True)) / temperature for j in others
            ]
            total = sum(math.exp(score) for score in scores)
            for j, score in zip(others, scores, strict=True):
                share = math.exp(score) / total
                pull = (share - (j == i)) / temperature / 2
                grad_a[i] += pull * b[j]
                grad_b[j] += pull * a[i]
                if j == i:
                    loss -= math.log(share) / 2
    return loss, grad_u, grad_v


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_info_nce_is_the_slow_sum_and_so_is_its_gradient(temperature):
    random = np.random.default_rng(0)
    u, v = (random.normal(size=(7, 4)) for _ in range(2))
    same = np.eye(7, dtype=bool)
    same[1, 4] = same[4, 1] = same[0, 6] = same[6, 0] = True
    expected, grad_u, grad_v = slow_info_nce(u, v, temperature, same)
    u_t, v_t = (torch.tensor(x, requires_grad=True) for x in (u, v))
    loss = info_nce(u_t, v_t, temperature, torch.from_numpy(same))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(u_t.grad, grad_u, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(v_t.grad, grad_v, rtol=1e-10, atol=1e-12)


def test_info_nce_has_its_known_values():
    one = functional.normalize(torch.randn(1, 3), dim=1)
    alike = one.expand(8, 3)
    assert info_nce(alike, alike, 0.1).item() == pytest.approx(8 * math.log(8), rel=1e-5)
    everything = torch.ones(8, 8, dtype=torch.bool)
    assert info_nce(alike, alike, 0.1, everything).item() == pytest.approx(0.0, abs=1e-6)
    apart = torch.eye(8)
    assert info_nce(apart, apart, 0.01).item() == pytest.approx(0.0, abs=1e-6)


def alignment(model_input, plm):
    model = CTRLForAlignment(ctr=parts.fresh_ctr(CTR, model_input, 0), encoder=frozen(plm), size=6)
    model.initialise_projections(torch.Generator().manual_seed(0))
    objective = AlignmentObjective(
        model_input=model_input, machine=MACHINE, batch_size=32, temperature=0.1, seed=5
    )
    return model, objective


def test_a_sample_that_is_twice_in_a_batch_is_no_negative_of_itself(model_input, plm):
    model, objective = alignment(model_input, plm)
    model.eval()
    rows = np.arange(6)
    twice = np.concatenate((rows, rows[:2]))
    batch = objective.prepare(twice)
    same = objective._same(batch).numpy()
    expected = twice[:, None] == twice[None, :]
    assert (same >= expected).all()
    with torch.no_grad():
        of_ids, of_text = model(
            torch.from_numpy(batch.x_id_BF), torch.from_numpy(batch.token_ids_BN),
            torch.arange(batch.token_ids_BN.shape[1]) < torch.from_numpy(batch.length_B)[:, None],
        )  # fmt: skip
        found = objective.loss_sum(model, batch)
    for vectors in (of_ids, of_text):
        np.testing.assert_allclose(vectors.norm(dim=1), 1.0, rtol=1e-5)
    slow, _, _ = slow_info_nce(of_ids.double().numpy(), of_text.double().numpy(), 0.1, same)
    assert found.item() == pytest.approx(slow, rel=1e-4)


def test_alignment_batches_have_every_row_once_and_negatives(model_input, plm):
    _, objective = alignment(model_input, plm)
    train = model_input.rows("train")
    rows = np.concatenate(objective.batches(0))
    left_out = (train.stop - train.start) % 32 == 1
    assert len(np.unique(rows)) == len(rows) == train.stop - train.start - left_out
    assert min(map(len, objective.batches(0))) > 1


# --- CTR-BERT -------------------------------------------------------------------------


def two_towers(model_input, plm, encoders=1):
    model = CTRBert(
        ctr=parts.fresh_ctr(CTR, model_input, 0),
        encoder=frozen(plm),
        item_encoder=frozen(plm) if encoders == 2 else None,
    )
    model.click_head.initialise(torch.Generator().manual_seed(1))
    objective = TwoTowerClickObjective(user_fields=USER_FIELDS, **settings(model_input))
    return model.eval(), objective


@pytest.mark.parametrize("encoders", [1, 2])
@torch.no_grad()
def test_vectors_computed_before_give_what_the_joint_forward_gives(model_input, plm, encoders):
    model, objective = two_towers(model_input, plm, encoders)
    part = model_input.rows("test")
    rows = np.arange(part.start, part.stop)
    joint = objective.logits(model, objective.prepare(rows)).double().numpy()
    served = objective.predict(model, "test")
    np.testing.assert_allclose(served, 1 / (1 + np.exp(-joint)), atol=1e-6)


@torch.no_grad()
def test_a_row_is_its_own_two_texts_and_ids(model_input, plm):
    """Against each row alone, its texts put together by hand."""
    model, objective = two_towers(model_input, plm)
    rows = np.arange(12)
    found = objective.logits(model, objective.prepare(rows))
    special = model_input.special_tokens
    fields = range(model_input.ids.shape[1])
    for row in rows:
        vectors = []
        for chosen in (USER_FIELDS, [f for f in fields if f not in USER_FIELDS]):
            tokens = [special["cls"]]
            for field in chosen:
                piece = model_input.pieces[row, field]
                start, stop = model_input.piece_offsets[piece : piece + 2]
                tokens.extend(int(token) for token in model_input.piece_tokens[start:stop])
            hidden = model.encoder(torch.tensor([[*tokens, special["sep"]]]), None)
            vectors.append(hidden.mean(dim=1))
        x_id = torch.from_numpy(np.array(model_input.ids[[row]]))
        joined = torch.cat((*vectors, model.ctr.representation(x_id)), dim=1)
        first, last = model.click_head[0], model.click_head[2]
        expected = last(torch.tanh(first(joined)))[0, 0]
        assert found[row].item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_the_towers_do_not_see_each_others_text(model_input, plm):
    model, objective = two_towers(model_input, plm)
    seen = {}
    for name in ("user_vectors", "item_vectors"):
        plain = getattr(model, name)

        def spy(ids, mask, name=name, plain=plain):
            seen.setdefault(name, []).append(plain(ids, mask))
            return seen[name][-1]

        object.__setattr__(model, name, spy)
    users = model_input.pieces[:, 0]
    # one user, then the same user with other items
    user = np.bincount(users[: model_input.rows("train").stop]).argmax()
    rows = np.flatnonzero(users == user)
    assert len(rows) >= 4
    for chosen in (rows[:2], rows[2:4]):
        objective.logits(model, objective.prepare(chosen))
    one, other = seen["user_vectors"]
    assert len(one) == len(other) == 1, "a text is read once a batch"
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.allclose(seen["item_vectors"][0], seen["item_vectors"][1])


def test_towers_of_a_part_are_those_of_the_batch(model_input, plm):
    model, objective = two_towers(model_input, plm)
    batch = objective.prepare(np.arange(31))
    whole = objective.loss_sum(model, batch)
    halves = [objective.loss_sum(model, batch.part(number, 2)) for number in range(2)]
    assert sum(halves).item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            ("user",),
            r"columns of data\.fields \(user_id, movie_id, movie_title, genre\), got 'user'",
        ),
        (("user_id", "movie_id", "movie_title", "genre"), "leave a field for the item, got all of"),
    ],
)
def test_user_fields_are_checked_before_any_work(model_input, plm, tmp_path, fields, message):
    stage = CTRBertParameters(**QUICK, user_fields=fields)
    with pytest.raises(ValueError, match=message):
        baselines.train_ctr_bert(
            model_input=model_input, ctr=CTR, plm=plm, stage=stage,
            training=training(tmp_path), seed=0,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- P5 -------------------------------------------------------------------------------

ASKED = "part of a movie"


def p5(model_input, plm):
    question, (yes, no) = question_tokens(plm, ASKED, ("movie", "genre"))
    torch.manual_seed(0)
    t5 = random_t5(
        vocabulary_size=model_input.metadata["vocabulary_size"],
        pad_id=model_input.special_tokens["pad"],
        end_id=model_input.special_tokens["sep"],
        size=32,
        layers=1,
    )
    model = P5(model=t5, yes=yes, no=no)
    objective = QuestionClickObjective(question=question, **settings(model_input))
    return model.eval(), objective, (yes, no)


@pytest.mark.parametrize("scaled", [True, False])
@torch.no_grad()
def test_p5_is_the_softmax_over_its_two_answers(model_input, plm, scaled):
    model, objective, answers = p5(model_input, plm)
    if not scaled:  # as T5 1.1
        model.encoder.config.scale_decoder_outputs = False
        model.encoder.lm_head.weight = torch.nn.Parameter(
            torch.randn_like(model.encoder.lm_head.weight)
        )
    batch = objective.prepare(np.arange(9))
    logit_B = objective.logits(model, batch)
    for row in range(9):
        length = batch.length_B[row]
        answer = model.encoder(
            input_ids=torch.from_numpy(batch.token_ids_BN[row : row + 1, :length]),
            decoder_input_ids=torch.tensor([[model.encoder.config.decoder_start_token_id]]),
        ).logits[0, 0, list(answers)]
        expected = torch.softmax(answer.double(), dim=0)[0].item()
        assert torch.sigmoid(logit_B[row]).item() == pytest.approx(expected, abs=1e-5)


def test_the_question_stands_between_a_text_and_its_end(model_input, plm):
    _, objective, _ = p5(model_input, plm)
    question = question_tokens(plm, ASKED, ("movie", "genre"))[0]
    assert len(question) == 4
    plain = ClickObjective(**settings(model_input), text=True)
    rows = np.arange(25)
    asked, given = objective.prepare(rows), plain.prepare(rows)
    for row in rows:
        text = list(given.token_ids_BN[row, : given.length_B[row]])
        expected = [*text[:-1], *question, text[-1]]
        assert list(asked.token_ids_BN[row, : asked.length_B[row]]) == expected
        padding = asked.token_ids_BN[row, asked.length_B[row] :]
        assert (padding == model_input.special_tokens["pad"]).all()


@pytest.mark.parametrize("answers", [("movie", "user movie"), ("movie", "movie"), ("movie", "€")])
def test_an_answer_must_be_a_token_of_its_own(plm, answers):
    with pytest.raises(ValueError, match=r"model\.p5\.answers must be two words of one token each"):
        question_tokens(plm, ASKED, answers)


def write_tiny_t5(folder: Path) -> None:
    """A random one-layer T5 with a Unigram tokenizer as T5's, of texts like the synthetic data."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    texts = [f"user id is {n}. movie id is {n + 7}. genre is {n % 9}." for n in range(300)]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>", "yes", "no"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    T5ForConditionalGeneration(
        T5Config(
            vocab_size=tokenizer.get_vocab_size(),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
    ).save_pretrained(folder)


def test_a_t5_of_a_folder_reads_its_own_tokens_and_starts_at_its_own_weights(tmp_path):
    from clickprompt import modality
    from clickprompt.parameters import DataParameters, PLMParameters
    from clickprompt.plm import load_tokenizer
    from clickprompt.readers import read_interactions
    from clickprompt.synthetic import write_synthetic_ratings

    folder = tmp_path / "t5"
    write_tiny_t5(folder)
    raw = write_synthetic_ratings(tmp_path / "raw", users=20, movies=30, ratings=300)
    label = {"positive_from": 4, "negative_to": 2.5}
    data = DataParameters.model_validate(
        {"reader": "movielens_small", "item": "movie_id", "fields": FIELDS, "label": label}
    )
    plm = PLMParameters(source=str(folder), keep_layers=None)
    tokenizer = load_tokenizer(plm)
    interactions = read_interactions(raw.files, data).interactions
    fast = modality.PieceTokenizer.of(tokenizer, encoder_decoder=True)
    model_input = modality.convert_interactions(
        interactions, data, fast, tmp_path / "model_input", max_tokens=256
    )
    codes = modality.encode_fields(interactions, modality.label_and_split(interactions, data), data)
    texts = modality.build_text_view(codes, data).texts(np.asarray(codes.codes[:8]))
    assert model_input.special_tokens == {"cls": None, "sep": 1, "mask": None, "pad": 0}
    ids_BN, length_B = TextBatcher(model_input).tokens(np.arange(8))
    for row in range(8):
        assert list(ids_BN[row, : length_B[row]]) == tokenizer.encode(texts[row])
    stage = P5Parameters(**QUICK, question="is it yes?", learning_rate_plm=1e-3)
    shared = {"model_input": model_input, "plm": plm, "training": training(tmp_path / "models")}
    trained = baselines.train_p5(**shared, stage=stage, seed=0)
    assert trained.report["plm"] == str(folder)
    kept = load_t5(plm.model_copy(update={"keep_layers": 1}))
    whole = load_t5(plm)
    assert (len(kept.encoder.block), len(whole.encoder.block)) == (1, 2)
    stored = load_tensors(folder / "model.safetensors")
    for name, tensor in stored.items():
        torch.testing.assert_close(whole.state_dict()[name], tensor)
    with pytest.raises(ValueError, match=r"got model_type 't5': only the baseline P5"):
        load_encoder(plm)


# --- PTab -----------------------------------------------------------------------------


@torch.no_grad()
def test_ptab_is_the_pooled_text_and_a_head_and_knows_no_id(model_input, plm):
    model = PTab(encoder=frozen(plm)).eval()
    model.click_head.initialise(torch.Generator().manual_seed(1))
    objective = TextClickObjective(**settings(model_input), text=True)
    batch = objective.prepare(np.arange(9))
    found = objective.logits(model, batch)
    for row in range(9):
        tokens = torch.from_numpy(batch.token_ids_BN[row : row + 1, : batch.length_B[row]])
        pooled = model.encoder(tokens, None).mean(dim=1)
        first, last = model.click_head[0], model.click_head[2]
        assert found[row].item() == pytest.approx(last(torch.tanh(first(pooled))).item(), abs=1e-5)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoder", "click_head"}


# --- frozen vectors -------------------------------------------------------------------


@torch.no_grad()
def test_each_piece_is_encoded_as_if_it_were_alone(model_input, plm):
    encoder = frozen(plm)
    vectors = encode_pieces(encoder, model_input, torch.device("cpu"))
    special = model_input.special_tokens
    alone = []
    for start, stop in zip(
        model_input.piece_offsets[:-1], model_input.piece_offsets[1:], strict=True
    ):
        tokens = [special["cls"], *map(int, model_input.piece_tokens[start:stop]), special["sep"]]
        alone.append(pool(encoder(torch.tensor([tokens]), None), None, "mean")[0])
    expected = torch.stack(alone)
    np.testing.assert_allclose(
        vectors, expected / expected.square().mean().sqrt(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("use", ["projected", "averaged"])
@torch.no_grad()
def test_frozen_vectors_are_added_where_they_should(model_input, plm, use):
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    vectors = encode_pieces(frozen(plm), model_input, torch.device("cpu"))
    model = TextFeatureCTR(ctr=ctr, vector_PH=vectors, use=use).eval()
    model.initialise(torch.Generator().manual_seed(1))
    objective = PieceClickObjective(**settings(model_input), text=False)
    batch = objective.prepare(np.arange(10))
    found = objective.logits(model, batch)
    x_id = torch.from_numpy(np.array(batch.x_id_BF))
    texts = vectors[torch.from_numpy(np.array(batch.piece_BF, dtype=np.int64))]
    if use == "averaged":
        expected = ctr(x_id) + model.click_head(texts.mean(dim=1))
    else:
        table = ctr.embedding
        np.testing.assert_allclose(found, ctr(x_id), atol=1e-6)  # it starts as the CTR model alone
        model.text_projection.weight.normal_(generator=torch.Generator().manual_seed(2))
        found = objective.logits(model, batch)
        assert not np.allclose(found, ctr(x_id), atol=1e-3)
        added = texts @ model.text_projection.weight.T
        rows = table.weight[x_id + table.field_offsets] + added
        plain = ctr.embedding.forward
        ctr.embedding.forward = lambda ids: rows
        expected = ctr(x_id)
        ctr.embedding.forward = plain
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # the vectors are not learnt, and the CTR model alone is what it was
    learnt = {
        id(p) for g in parameter_groups(model, ClickStageParameters(**QUICK)) for p in g["params"]
    }
    assert id(model.vector_PH) not in learnt
    assert "vector_PH" not in model.state_dict()
    np.testing.assert_allclose(ctr(x_id), parts.fresh_ctr(CTR, model_input, 0)(x_id))


# --- distillation ---------------------------------------------------------------------


def test_a_distilled_target_is_the_weighted_sum_of_two_entropies(model_input):
    train = model_input.rows("train")
    random = np.random.default_rng(0)
    teacher = random.uniform(0.05, 0.95, train.stop - train.start)
    objective = DistilledClickObjective(
        teacher=teacher, weight=0.3, **settings(model_input), text=False
    )
    plain = ClickObjective(**settings(model_input), text=False)
    model = stages.CTRForClicks(ctr=parts.fresh_ctr(CTR, model_input, 0))
    rows = np.arange(train.start, train.start + 20)
    found = objective.loss_sum(model, objective.prepare(rows)).item()
    with torch.no_grad():
        p = 1 / (1 + np.exp(-plain.logits(model, plain.prepare(rows)).double().numpy()))
    label, soft = model_input.labels[rows].astype(float), teacher[rows - train.start]
    entropy = [-(y * np.log(p) + (1 - y) * np.log(1 - p)).sum() for y in (label, soft)]
    assert found == pytest.approx(0.7 * entropy[0] + 0.3 * entropy[1], rel=1e-5)
    assert objective.validate(model) == plain.validate(model)


# --- stages ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(inputs_folder, tmp_path_factory):
    """Every baseline and the distillation, on the tiny data."""
    from clickprompt.modality import ModelInput
    from clickprompt.parameters import PLMParameters

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    plm = PLMParameters(source=str(inputs_folder / "plm"), keep_layers=None)
    shared = {
        "model_input": ModelInput.open(inputs_folder / "model_input"),
        "training": training(folder),
        "seed": 3,
    }
    quick = {"epochs": 3, "batch_size": 32, "learning_rate_ctr": 1e-2}
    text = {"ctr": CTR, "plm": plm}

    def everything():
        found = {
            "ctr_bert": baselines.train_ctr_bert(
                **shared, **text, stage=CTRBertParameters(**quick, user_fields=("user_id",))
            ),
            "ctr_bert_two": baselines.train_ctr_bert(
                **shared,
                **text,
                stage=CTRBertParameters(**quick, user_fields=("user_id",), encoders="two"),
            ),
            "p5": baselines.train_p5(
                **shared,
                plm=plm,
                stage=P5Parameters(
                    **quick, answers=("movie", "genre"), size=32, layers=1, learning_rate_plm=1e-3
                ),
            ),
            "ptab": baselines.train_ptab(
                **shared,
                **text,
                stage=PTabParameters(
                    pretrain=PretrainParameters(**quick), finetune=TextStageParameters(**quick)
                ),
            ),
            "ctrl": baselines.train_ctrl(
                **shared,
                **text,
                stage=CTRLParameters(
                    align=AlignParameters(**quick, size=8), finetune=ClickStageParameters(**quick)
                ),
            ),
        }
        for use in ("projected", "averaged"):
            found[f"text_features_{use}"] = baselines.train_text_features(
                **shared, **text, stage=TextFeaturesParameters(**quick, use=use)
            )
        pretrained = stages.pretrain(
            **shared, **text, prompts=PROMPTS, stage=PretrainParameters(**quick)
        )
        with_plm = FinetuneWithPLMParameters(**quick)
        alone = ClickStageParameters(**quick)
        found["with_plm"] = stages.finetune_with_plm(
            **shared, **text, prompts=PROMPTS, pretrained=pretrained, stage=with_plm
        )
        found["without_plm"] = stages.finetune_without_plm(
            **shared, ctr=CTR, pretrained=pretrained, stage=alone
        )
        for weight in (0.0, 0.5):
            found[f"distilled_{weight}"] = baselines.distil(
                **shared,
                **text,
                prompts=PROMPTS,
                pretrained=pretrained,
                teacher=found["with_plm"],
                with_plm=with_plm,
                stage=alone,
                distillation=DistillationParameters(weight=weight),
            )
        return found

    return everything(), everything


def test_every_baseline_learns_and_is_found_again(trained):
    found, again = trained
    for name, model in found.items():
        metrics = model.report["metrics"]
        assert {"valid_auc", "valid_log_loss", "test_auc", "test_log_loss"} <= set(metrics), name
        losses = [epoch["train_loss"] for epoch in model.report["history"]]
        assert losses[-1] < losses[0], name
    for name, model in again().items():
        assert model.folder == found[name].folder
        assert model.report["seconds"] == found[name].report["seconds"]


def test_without_a_teachers_weight_distillation_is_finetuning_without_plm(trained):
    found, _ = trained
    one, other = (
        load_tensors(found[name].weights_path) for name in ("distilled_0.0", "without_plm")
    )
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    taught = load_tensors(found["distilled_0.5"].weights_path)
    assert any(not torch.equal(taught[name], other[name]) for name in taught)
    counts = [found[n].report["parameter_counts"] for n in ("distilled_0.5", "without_plm")]
    assert counts[0] == counts[1]


def test_reports_name_parts_and_what_was_trained(trained):
    found, _ = trained
    parts_of = {name: set(model.report["parameter_counts"]) for name, model in found.items()}
    assert parts_of["ctr_bert"] == {"ctr", "encoder", "click_head"}
    assert parts_of["ctr_bert_two"] == {"ctr", "encoder", "item_encoder", "click_head"}
    assert parts_of["ptab"] == {"encoder", "click_head"}
    assert parts_of["ctrl"] == {"ctr"}
    assert parts_of["text_features_projected"] == {"ctr", "text_projection"}
    assert parts_of["p5"] == {"encoder"}
    assert found["ptab"].report["ctr"] is None
    assert found["p5"].report["plm"] == "T5, random weights"
    assert found["ctr_bert"].report["trained_parameter_counts"]["encoder"] > 0
    json.dumps({name: model.report for name, model in found.items()})


def test_alignment_is_learnt(trained):
    found, _ = trained
    digest = found["ctrl"].report["parameters"]["pretrained"]
    (path,) = (
        Path(found["ctrl"].folder).parents[2].glob(f"ctrl_align/{digest[:16]}/result/report.json")
    )
    history = json.loads(path.read_text())["history"]
    assert history[-1]["valid_alignment_loss"] < history[0]["valid_alignment_loss"]
    assert history[-1]["valid_alignment_accuracy"] > 2 / 32


def test_piece_vectors_are_computed_once(trained, inputs_folder, monkeypatch):
    found, again = trained
    monkeypatch.setattr(baselines, "encode_pieces", lambda *_: pytest.fail("encoded again"))
    again()
    folder = Path(found["ctrl"].folder).parents[2] / "piece_vectors"
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_alignment_needs_whole_batches(model_input, plm, tmp_path):
    with pytest.raises(ValueError, match="accumulate must be 1"):
        AlignParameters(**QUICK, accumulate=2)
    with pytest.raises(ValueError, match=r"must be 1 to align \(CTRL\).* got 2 and 1"):
        baselines.align_towers(
            model_input=model_input, ctr=CTR, plm=plm, stage=AlignParameters(**QUICK),
            training=training(tmp_path, processes=2), seed=0,
        )  # fmt: skip


def test_a_text_of_some_fields_is_that_of_these_pieces(model_input):
    rows = np.arange(20)
    whole, some = TextBatcher(model_input), TextBatcher(model_input, fields=[2, 0])
    assert (some.pieces(rows) == model_input.pieces[rows][:, [2, 0]]).all()
    ids_BN, length_B = some.tokens(rows)
    field_BN = whole.fields(rows, *whole.tokens(rows))
    all_BN, _ = whole.tokens(rows)
    for row in range(20):
        expected = [*all_BN[row][field_BN[row] == 2], *all_BN[row][field_BN[row] == 0]]
        assert list(ids_BN[row, 1 : length_B[row] - 1]) == expected
