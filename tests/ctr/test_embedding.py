"""The stacked table: offsets, bags, what is saved, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clickprompt.ctr import FeatureEmbedding

BAG = np.array([[0, -1], [1, 2], [-1, 1]])


def _embedding(**changes):
    arguments = {"field_sizes": (2, 3, 4), "embedding_size": 5, "bags": None}
    return FeatureEmbedding(**(arguments | changes))


def test_fields_own_consecutive_rows_of_the_table():
    embedding = _embedding()
    x_id_BF = torch.tensor([[0, 0, 0], [1, 2, 3]])
    expected = torch.stack([embedding.weight[[0, 2, 5]], embedding.weight[[1, 4, 8]]])
    assert torch.equal(embedding(x_id_BF), expected)


def test_int32_ids_give_the_same_numbers_as_int64():
    embedding = _embedding(bags={1: BAG})
    x_id_BF = torch.tensor([[1, 2, 3], [0, 1, 1]])
    assert torch.equal(embedding(x_id_BF.int()), embedding(x_id_BF))


def test_a_bag_is_the_mean_of_its_members_wherever_the_padding_stands():
    embedding = _embedding(bags={1: BAG})
    field_rows = embedding.weight[2:5]
    found = embedding(torch.tensor([[0, 0, 0], [0, 1, 0], [0, 2, 0]]))[:, 1]
    expected = torch.stack([field_rows[0], (field_rows[1] + field_rows[2]) / 2, field_rows[1]])
    torch.testing.assert_close(found, expected)


def test_bags_leave_the_other_fields_as_they_are_and_in_their_order():
    bags = {0: np.array([[1], [0]]), 2: np.array([[0, 3]])}
    embedding = _embedding(bags=bags)
    found = embedding(torch.tensor([[0, 2, 0]]))[0]
    weight = embedding.weight
    torch.testing.assert_close(
        found, torch.stack([weight[1], weight[4], (weight[5] + weight[8]) / 2])
    )


def test_all_fields_may_be_bags():
    embedding = _embedding(field_sizes=(3,), bags={0: BAG})
    expected = embedding.weight[1:].mean(dim=0)
    torch.testing.assert_close(embedding(torch.tensor([[1]]))[0, 0], expected)


def test_padding_gets_no_gradient():
    embedding = _embedding(bags={1: BAG})
    embedding(torch.tensor([[0, 2, 0]])).sum().backward()
    touched = embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert touched == [0, 3, 5]


def test_state_dict_holds_the_table_only():
    assert list(_embedding(bags={1: BAG}).state_dict()) == ["weight"]


def test_bags_follow_the_precision_of_the_model():
    assert _embedding(bags={1: BAG}).double()(torch.tensor([[0, 1, 0]])).dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field_sizes": (2, 0)}, r"field_sizes must all be at least 1, got \[2, 0\]"),
        ({"field_sizes": ()}, r"field_sizes must all be at least 1, got \[\]"),
        ({"embedding_size": 0}, "embedding_size must be at least 1, got 0"),
        ({"bags": {3: BAG}}, r"bags must name fields in 0\.\.2, got 3"),
        ({"bags": {1: BAG[0]}}, r"bag of field 1 must have the shape .*, got \(2,\)"),
        ({"bags": {1: BAG[:0]}}, r"bag of field 1 must have the shape .*, got \(0, 2\)"),
        ({"bags": {1: np.array([[0], [-1]])}}, "must have a member in each row, row 1 has none"),
        (
            {"bags": {1: np.array([[0], [3]])}},
            r"bag of field 1 must hold ids in 0\.\.2 or -1, got 3",
        ),
        ({"bags": {1: np.array([[0, -2]])}}, r"must hold ids in 0\.\.2 or -1, got -2"),
    ],
)
def test_wrong_sizes_and_bags_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        _embedding(**changes)


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (3,)])
def test_ids_of_another_width_are_an_error_and_not_broadcast(shape):
    with pytest.raises(ValueError, match=r"x_id must have the shape \(B, 3\), got"):
        _embedding()(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(
    ("x_id", "message"),
    [
        ([[0, 0, 0], [2, 0, 0]], r"x_id of field 0 must be in 0\.\.1, got 2 in row 1"),
        ([[0, 0, -1]], r"x_id of field 2 must be in 0\.\.3, got -1 in row 0"),
        ([[1, 2, 4]], r"x_id of field 2 must be in 0\.\.3, got 4 in row 0"),
    ],
)
def test_ids_outside_of_their_field_are_named(x_id, message):
    embedding = _embedding()
    for kind in (torch.int32, torch.int64):
        with pytest.raises(ValueError, match=message):
            embedding(torch.tensor(x_id, dtype=kind))


def test_ids_of_a_bag_field_number_its_combinations():
    embedding = _embedding(field_sizes=(2, 9, 4), bags={1: BAG})
    embedding(torch.tensor([[0, 2, 0]]))
    with pytest.raises(ValueError, match=r"x_id of field 1 must be in 0\.\.2, got 3 in row 0"):
        embedding(torch.tensor([[0, 3, 0]]))
