"""What every registered CTR model must do; a new model is covered by being registered."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clickprompt.ctr import REGISTRY, CTRModel, FeatureEmbedding, build_ctr
from clickprompt.parameters import CTR_INITIALISATION, CTR_MODELS, CTR_SIZES, CTRParameters

FIELD_SIZES = (40, 6, 3, 25)
BAGS = {1: np.array([[0, -1, -1], [1, 2, -1], [3, 4, 5], [5, -1, 1]])}
ID_LIMITS = {"plain": FIELD_SIZES, "bag": (40, 4, 3, 25)}


@pytest.fixture(params=["plain", "bag"])
def fields(request) -> str:
    return request.param


@pytest.fixture(params=list(REGISTRY))
def name(request) -> str:
    return request.param


@pytest.fixture
def model(name, fields) -> CTRModel:
    return _build(name, fields, seed=0)


@pytest.fixture(name="x_id_BF")
def _ids(fields) -> torch.Tensor:
    generator = np.random.default_rng(1)
    columns = [generator.integers(0, limit, 64) for limit in ID_LIMITS[fields]]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.int32))


def _build(name: str, fields: str, seed: int) -> CTRModel:
    ctr = CTRParameters(name=name, embedding_size=8, hidden_sizes=(32, 16), linear=True)
    generator = torch.Generator().manual_seed(seed)
    bags = BAGS if fields == "bag" else None
    return build_ctr(ctr, FIELD_SIZES, bags, generator=generator)


def test_registry_is_the_list_of_the_parameters():
    assert tuple(REGISTRY) == CTR_MODELS


def test_constructors_are_flat_and_keyword_only(name):
    parameters = list(inspect.signature(REGISTRY[name]).parameters.values())
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    expected = {"field_sizes", "bags", *CTR_SIZES[name]}
    assert {parameter.name for parameter in parameters} == expected


def test_sizes_that_no_model_reads_do_not_exist():
    assert {size for sizes in CTR_SIZES.values() for size in sizes} == set(
        CTRParameters.model_fields
    ) - {"name", *CTR_INITIALISATION}


def test_shapes(model, x_id_BF):
    assert model.representation(x_id_BF).shape == (64, model.representation_size)
    assert model(x_id_BF).shape == (64,)


def test_input_is_left_unchanged(model, x_id_BF):
    before = x_id_BF.clone()
    model(x_id_BF).sum().backward()
    assert torch.equal(x_id_BF, before)


def test_one_row_alone_gives_the_number_it_has_in_a_batch(model, x_id_BF):
    model.double().eval()
    alone = torch.cat([model(x_id_BF[row : row + 1]) for row in range(5)])
    torch.testing.assert_close(alone, model(x_id_BF)[:5], rtol=1e-10, atol=1e-12)


def test_batch_order_carries_over(model, x_id_BF):
    model.double().eval()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(x_id_BF[order]), model(x_id_BF)[order], rtol=1e-10, atol=1e-12)


def test_a_changed_row_changes_only_itself(model, x_id_BF):
    model.double().eval()
    changed = x_id_BF.clone()
    changed[7, 0] = (changed[7, 0] + 1) % FIELD_SIZES[0]
    differs = (model.representation(changed) - model.representation(x_id_BF)).abs().amax(dim=1)
    assert differs[7] > 1e-8
    differs[7] = 0
    assert differs.max() < 1e-12


def test_every_parameter_gets_a_gradient(model, x_id_BF):
    model.eval()  # a bias before a batch norm has none in training
    model(x_id_BF).square().sum().backward()
    silent = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert silent == []


def test_the_prompts_train_all_but_what_only_the_logit_reads(model, x_id_BF):
    # In PA-MLM the loss reaches the model through the representation only.
    model.eval()
    model.representation(x_id_BF).square().sum().backward()
    logit_only = {id(weight) for weight in model.logit_parameters()}
    assert {id(weight) for weight in model.head.parameters()} <= logit_only
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == (id(weight) in logit_only), name


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_without_rows_gives_no_rows_and_no_gradient(model, x_id_BF, training):
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    assert model.representation(x_id_BF[:0]).shape == (0, model.representation_size)
    logit_B = model(x_id_BF[:0])
    assert logit_B.shape == (0,)
    logit_B.sum().backward()
    for name, weight in model.named_parameters():
        assert not weight.grad.any(), name
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) or "num_batches" in name, name


def test_another_number_of_fields_is_an_error(model, x_id_BF):
    with pytest.raises(ValueError, match=r"x_id must have the shape \(B, 4\), got \(64, 3\)"):
        model(x_id_BF[:, :3])


@pytest.mark.parametrize(
    ("field", "value", "limit"), [(0, 40, 40), (2, -1, 3), (3, 25, 25), (2, 3, 3)]
)
def test_an_id_outside_of_its_field_is_named(model, x_id_BF, field, value, limit):
    # Most of them would be rows of the neighbouring field, without a word.
    x_id_BF[5, field] = value
    message = rf"x_id of field {field} must be in 0\.\.{limit - 1}, got {value} in row 5"
    with pytest.raises(ValueError, match=message):
        model.representation(x_id_BF)


def test_autocast_changes_little_and_lets_every_gradient_through(model, x_id_BF):
    model.eval()
    exact_B = model(x_id_BF).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logit_B = model(x_id_BF).float()
    torch.testing.assert_close(logit_B, exact_B, rtol=0.05, atol=0.05 * exact_B.std().item())
    logit_B.square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name


def test_a_copy_stands_alone(model, x_id_BF):
    model.eval()
    before = model(x_id_BF).detach()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x_id_BF), before)
    twin(x_id_BF).square().sum().backward()
    with torch.no_grad():
        for weight in twin.parameters():
            weight -= 0.1 * weight.grad
    assert not torch.equal(twin(x_id_BF), before)
    assert torch.equal(model(x_id_BF), before)


def test_state_round_trip(model, name, fields, x_id_BF):
    other = _build(name, fields, seed=9)
    assert not torch.equal(other(x_id_BF), model(x_id_BF))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x_id_BF), model(x_id_BF))


def test_forward_is_logits_of_the_representation(model, x_id_BF):
    model.eval()
    composed = model.logits(model.representation(x_id_BF), x_id_BF)
    # Not bit by bit: where the operands lie in memory decides the order of sums on some processors.
    torch.testing.assert_close(model(x_id_BF), composed, rtol=1e-6, atol=1e-6)


def test_overfits_64_rows(model, x_id_BF):
    x_id_BF[:, 0] = torch.arange(64) % FIELD_SIZES[0]
    rows = torch.unique(x_id_BF, dim=0)
    labels_B = torch.randint(0, 2, (len(rows),), generator=torch.Generator().manual_seed(3)).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(model(rows), labels_B)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.01


def test_initialisation_depends_on_its_generator_only(model, name, fields):
    torch.manual_seed(123)
    same = _build(name, fields, seed=0).state_dict()
    other = _build(name, fields, seed=1).state_dict()
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, same[key]), key
    assert not torch.equal(model.embedding.weight, other["embedding.weight"])


def test_initialisation_is_xavier_normal(name):
    model = build_ctr(
        CTRParameters(name=name), (2000, 3000), generator=torch.Generator().manual_seed(0)
    )
    assert model.embedding.weight.std().item() == pytest.approx((2 / (5000 + 32)) ** 0.5, rel=0.02)
    for key, weight in model.named_parameters():
        if key.endswith("bias"):
            assert not weight.any(), key


def test_initialisation_is_a_parameter(name):
    ctr = CTRParameters(name=name, linear=True, initialisation="xavier_uniform", embedding_std=0.3)
    model = build_ctr(ctr, (2000, 3000), generator=torch.Generator().manual_seed(0))
    tables = [m for m in model.modules() if isinstance(m, FeatureEmbedding)]
    for table in tables:
        assert table.weight.std().item() == pytest.approx(0.3, rel=0.05)
        assert abs(table.weight.mean().item()) < 0.03
    drawn = {id(table.weight) for table in tables}
    for key, weight in model.named_parameters():
        if weight.ndim == 2 and id(weight) not in drawn:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert weight.abs().max() <= bound, key
            if weight.numel() > 200:
                assert weight.abs().max() > 0.95 * bound, key
                assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), key
    model.reset_head(torch.Generator().manual_seed(1), initialisation="xavier_uniform")
    for weight in model.head.parameters():
        if weight.ndim == 2:
            assert 0 < weight.abs().max() <= (6 / sum(weight.shape)) ** 0.5


def test_tables_alone_may_be_drawn_otherwise(name):
    sizes = CTRParameters(name=name, linear=True)
    start = torch.Generator().manual_seed(0)
    wide = build_ctr(sizes.model_copy(update={"embedding_std": 2.0}), FIELD_SIZES, generator=start)
    for key, weight in wide.named_parameters():
        if "embedding" not in key and weight.ndim == 2 and weight.numel() > 200:
            xavier = (2 / sum(weight.shape)) ** 0.5
            assert weight.std().item() == pytest.approx(xavier, rel=0.2), key


def test_a_fresh_head_leaves_the_rest_and_repeats_with_its_seed(model):
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    model.reset_head(torch.Generator().manual_seed(5))
    first = {key: weight.clone() for key, weight in model.state_dict().items()}
    changed = {key for key, weight in first.items() if not weight.equal(before[key])}
    assert changed == {
        f"head.{key}" for key, weight in model.head.named_parameters() if weight.ndim > 1
    }
    model.reset_head(torch.Generator().manual_seed(5))
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, first[key]), key


def test_dropout_acts_in_training_only(name):
    ctr = CTRParameters(name=name, hidden_sizes=(32,), dropout=0.5)
    model = build_ctr(ctr, FIELD_SIZES)
    x_id_BF = torch.ones(8, 4, dtype=torch.long)
    assert torch.equal(model(x_id_BF), model(x_id_BF)) == ("dropout" not in CTR_SIZES[name])
    model.eval()
    assert torch.equal(model(x_id_BF), model(x_id_BF))


@pytest.mark.parametrize("name", ["dcn", "autoint", "xdeepfm", "dcnv2"])
def test_without_a_deep_part_the_representation_is_smaller_by_it(name, x_id_BF):
    sizes = {"name": name, "embedding_size": 8, "attention_size": 8}
    alone = build_ctr(CTRParameters(**sizes, hidden_sizes=()), FIELD_SIZES)
    whole = build_ctr(CTRParameters(**sizes, hidden_sizes=(5,)), FIELD_SIZES)
    assert whole.representation_size == alone.representation_size + 5
    assert alone.representation(x_id_BF % 3).shape == (64, alone.representation_size)
    same = {key: value for key, value in whole.state_dict().items() if key in alone.state_dict()}
    alone.load_state_dict(same | {"head.weight": whole.head.weight[:, :-5]})
    torch.testing.assert_close(
        alone.representation(x_id_BF % 3), whole.representation(x_id_BF % 3)[:, :-5]
    )


@pytest.mark.parametrize(
    ("sizes", "fields", "message"),
    [
        ({"name": "pnn"}, (5,), "inner products need at least 2 fields, got 1"),
        ({"name": "fignn"}, (5,), "fignn needs at least 2 fields, got 1"),
        (
            {"name": "fgcnn", "fgcnn_pooling": (3, 2, 2, 2)},
            (5,) * 5,
            r"fgcnn_pooling must leave at most 1 of 5 rows over, got 3, which leaves 2",
        ),
    ],
)
def test_sizes_that_do_not_fit_the_fields_are_named(sizes, fields, message):
    with pytest.raises(ValueError, match=message):
        build_ctr(CTRParameters(**sizes), fields)
