"""The masked-language head, fresh or the checkpoint's own, and pooling."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clickprompt.parameters import PLMParameters
from clickprompt.plm import MLMHead, load_encoder, load_mlm_head, pool
from tests.plm.tiny import CLASSES, VOCABULARY, save_tiny

TOKENS_BN = torch.tensor([[2, 17, 33, 90, 3], [2, 45, 8, 100, 3]])
AT = (torch.tensor([0, 1, 1]), torch.tensor([1, 2, 3]))


@pytest.fixture(params=list(CLASSES))
def family(request) -> str:
    return request.param


def _load(folder, *, tied: bool = True):
    parameters = PLMParameters(source=str(folder), keep_layers=None)
    encoder = load_encoder(parameters).eval()
    generator = torch.Generator().manual_seed(0)
    return encoder, load_mlm_head(parameters, encoder, tied=tied, generator=generator).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_the_checkpoints_own_head(family, tied, tmp_path):
    theirs = save_tiny(tmp_path, family, mlm=True)
    encoder, head = _load(tmp_path, tied=tied)
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS_BN).logits[AT]
        logits_SV = head(encoder(TOKENS_BN, None, last_layer_at=AT))
    torch.testing.assert_close(logits_SV, expected, rtol=0, atol=2e-5)


def test_an_untied_checkpoint_keeps_its_decoder(family, tmp_path):
    theirs = save_tiny(tmp_path, family, mlm=True, tie_word_embeddings=False)
    encoder, head = _load(tmp_path, tied=False)
    assert not torch.equal(head.decoder, encoder.word_embeddings.weight)
    with torch.no_grad():
        expected = theirs(input_ids=TOKENS_BN).logits[AT]
        logits_SV = head(encoder(TOKENS_BN, None, last_layer_at=AT))
    torch.testing.assert_close(logits_SV, expected, rtol=0, atol=2e-5)


def test_old_names_of_the_norm(tmp_path):
    """bert-base-uncased stores LayerNorm.gamma and .beta."""
    theirs = save_tiny(tmp_path, "bert", mlm=True)
    path = tmp_path / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(renamed, path, metadata={"format": "pt"})
    _, head = _load(tmp_path)
    transform = theirs.cls.predictions.transform
    assert torch.equal(head.norm.weight, transform.LayerNorm.weight)
    assert torch.equal(head.norm.bias, transform.LayerNorm.bias)


def test_half_a_head(tmp_path):
    save_tiny(tmp_path, "bert", mlm=True)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["cls.predictions.transform.dense.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"whole MLM head .* cls.predictions.transform.dense.bias"):
        _load(tmp_path)


def test_a_fresh_head_is_the_generators(family, tmp_path):
    save_tiny(tmp_path, family)
    _, first = _load(tmp_path)
    torch.manual_seed(123)  # the global generator must not matter
    _, second = _load(tmp_path)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert first.dense.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not first.bias.any()


def test_a_tied_head_owns_no_table_and_trains_the_encoders(family, tmp_path):
    save_tiny(tmp_path, family)
    encoder, head = _load(tmp_path)
    assert {name for name, _ in head.named_parameters()} == {
        "dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"
    }  # fmt: skip
    head(torch.ones(2, encoder.hidden_size)).square().sum().backward()
    # The decoder's gradient reaches every row, the padding token's too.
    assert encoder.word_embeddings.weight.grad.norm(dim=1).min() > 0


def test_an_untied_head_trains_its_copy(family, tmp_path):
    save_tiny(tmp_path, family)
    encoder, head = _load(tmp_path, tied=False)
    assert torch.equal(head.decoder, encoder.word_embeddings.weight)
    head(torch.ones(2, encoder.hidden_size)).square().sum().backward()
    assert encoder.word_embeddings.weight.grad is None
    assert head.decoder.grad.norm(dim=1).min() > 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_limited_vocabulary_is_columns_of_the_whole(family, tied, tmp_path):
    save_tiny(tmp_path, family)
    encoder, head = _load(tmp_path, tied=tied)
    hidden_SH = torch.randn(4, encoder.hidden_size, generator=torch.Generator().manual_seed(1))
    tokens_T = torch.tensor([7, 3, VOCABULARY - 1])
    whole, some = head(hidden_SH), head(hidden_SH, tokens_T)
    assert whole.shape == (4, VOCABULARY)
    torch.testing.assert_close(some, whole[:, tokens_T])


def test_a_copy_of_both_stays_tied(tmp_path):
    save_tiny(tmp_path, "bert")
    model = torch.nn.ModuleList(_load(tmp_path))
    encoder, head = copy.deepcopy(model)
    with torch.no_grad():
        encoder.word_embeddings.weight.zero_()
    assert not head(torch.ones(1, encoder.hidden_size)).any()
    assert model[1](torch.ones(1, encoder.hidden_size)).any()


def test_a_head_without_a_checkpoint(tmp_path):
    save_tiny(tmp_path, "bert")
    encoder = load_encoder(PLMParameters(source=str(tmp_path), keep_layers=1))
    assert MLMHead(encoder=encoder)(torch.zeros(0, encoder.hidden_size)).shape == (0, VOCABULARY)


# --- pooling ---------------------------------------------------------------------------

LAYERS_LBNH = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
MASK_BN = np.array([[True, True, True, False], [True, True, True, True]])


def _pooled_by_hand(pooling: str, mask_BN: np.ndarray) -> np.ndarray:
    first, before_last, last = LAYERS_LBNH
    rows = []
    for b, seen_N in enumerate(mask_BN):
        columns = [n for n, seen in enumerate(seen_N) if seen]
        states = {
            "mean": [last[b, n] for n in columns],
            "cls": [last[b, 0]],
            "avg_first_last": [(first[b, n] + last[b, n]) / 2 for n in columns],
            "avg_top2": [(before_last[b, n] + last[b, n]) / 2 for n in columns],
        }[pooling]
        rows.append(sum(states) / len(states))
    return np.stack(rows)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "avg_first_last", "avg_top2"])
def test_pooling(pooling, padded):
    mask_BN = MASK_BN if padded else np.ones_like(MASK_BN)
    pooled_BH = pool(
        tuple(torch.from_numpy(LAYERS_LBNH)), torch.from_numpy(mask_BN) if padded else None, pooling
    )
    np.testing.assert_allclose(pooled_BH, _pooled_by_hand(pooling, mask_BN), rtol=1e-12)


def test_pooling_of_the_last_layer_alone():
    last = torch.from_numpy(LAYERS_LBNH[-1])
    np.testing.assert_allclose(
        pool(last, torch.from_numpy(MASK_BN), "mean"), _pooled_by_hand("mean", MASK_BN), rtol=1e-12
    )
    with pytest.raises(ValueError, match="pooling 'avg_top2' must get the outputs of all layers"):
        pool(last, None, "avg_top2")


def test_pooling_mistakes():
    last = torch.from_numpy(LAYERS_LBNH[-1])
    with pytest.raises(ValueError, match=r"pooling must be one of mean, cls, .* got 'max'"):
        pool(last, None, "max")
    with pytest.raises(ValueError, match="pooling 'avg_top2' must get at least 2 layers, got 1"):
        pool((last,), None, "avg_top2")
