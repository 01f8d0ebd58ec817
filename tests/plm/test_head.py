"""The masked-language head, fresh or the checkpoint's own, and pooling."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ElectraForPreTraining

from clickprompt.parameters import PLMParameters
from clickprompt.plm import POOLINGS, MLMHead, load_encoder, load_mlm_head, pool
from tests.plm.tiny import CLASSES, VOCABULARY, exact_rotations, save_tiny, tiny_config

TOKENS_BN = torch.tensor([[2, 17, 33, 90, 3], [2, 45, 8, 100, 3]])
AT = (torch.tensor([0, 1, 1]), torch.tensor([1, 2, 3]))


@pytest.fixture(params=list(CLASSES))
def family(request) -> str:
    return request.param


def _load(folder, *, tied: bool = True):
    """In float64, so that only rounding is forgiven."""
    parameters = PLMParameters(source=str(folder), keep_layers=None)
    encoder = load_encoder(parameters).eval().double()
    generator = torch.Generator().manual_seed(0)
    return encoder, load_mlm_head(parameters, encoder, tied=tied, generator=generator).double()


@torch.no_grad()
def _assert_logits_are_theirs(theirs, folder, *, tied: bool) -> None:
    encoder, head = _load(folder, tied=tied)
    with exact_rotations():
        expected = theirs.double()(input_ids=TOKENS_BN).logits[AT]
    logits_SV = head(encoder(TOKENS_BN, None, last_layer_at=AT))
    torch.testing.assert_close(logits_SV, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tied", [True, False])
def test_the_checkpoints_own_head(family, tied, tmp_path):
    theirs = save_tiny(tmp_path, family, mlm=True)
    _assert_logits_are_theirs(theirs, tmp_path, tied=tied)


def test_an_untied_checkpoint_keeps_its_decoder(family, tmp_path):
    theirs = save_tiny(tmp_path, family, mlm=True, tie_word_embeddings=False)
    _, head = _load(tmp_path, tied=False)
    assert not torch.equal(head.decoder, theirs.get_input_embeddings().weight)
    _assert_logits_are_theirs(theirs, tmp_path, tied=False)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"hidden_act": "relu"}),
        ("roberta", {"hidden_act": "relu"}),  # the head keeps gelu
        ("electra", {"hidden_act": "relu"}),  # so does this one
        ("electra", {"embedding_size": 32}),  # no projection
        ("distilbert", {"activation": "relu"}),
        ("modernbert", {"hidden_activation": "relu", "classifier_activation": "silu"}),
        ("modernbert", {"norm_bias": True, "classifier_bias": True, "decoder_bias": False}),
        ("modernbert", {"attention_bias": True, "mlp_bias": True}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False, "activation_function": "relu"}),
    ],
)
def test_a_head_is_as_its_configuration_says(family, changes, tmp_path):
    theirs = save_tiny(tmp_path, family, mlm=True, **changes)
    _assert_logits_are_theirs(theirs, tmp_path, tied=True)


def test_a_discriminator_gets_a_fresh_head(tmp_path):
    config = tiny_config("electra")
    ElectraForPreTraining(config).save_pretrained(tmp_path)
    _, head = _load(tmp_path)
    assert head.dense.weight.shape == (16, 32)
    assert head.dense.weight.std().item() == pytest.approx(0.02, rel=0.15)


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
    if family == "gpt2":  # the decoder is all
        assert (first.dense, first.norm, first.bias) == (None, None, None)
        return
    assert first.dense.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not first.bias.any()


def test_a_tied_head_owns_no_table_and_trains_the_encoders(family, tmp_path):
    save_tiny(tmp_path, family)
    encoder, head = _load(tmp_path)
    assert {name for name, _ in head.named_parameters()} == {
        "gpt2": set(),
        "modernbert": {"dense.weight", "norm.weight", "bias"},
    }.get(family, {"dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"})
    head(torch.randn(2, encoder.hidden_size, dtype=torch.float64)).square().sum().backward()
    # The decoder's gradient reaches every row, the padding token's too.
    assert encoder.word_embeddings.weight.grad.norm(dim=1).min() > 0


def test_an_untied_head_trains_its_copy(family, tmp_path):
    save_tiny(tmp_path, family)
    encoder, head = _load(tmp_path, tied=False)
    assert torch.equal(head.decoder, encoder.word_embeddings.weight)
    head(torch.randn(2, encoder.hidden_size, dtype=torch.float64)).square().sum().backward()
    assert encoder.word_embeddings.weight.grad is None
    assert head.decoder.grad.norm(dim=1).min() > 0


@pytest.mark.parametrize("tied", [True, False])
def test_a_limited_vocabulary_is_columns_of_the_whole(family, tied, tmp_path):
    save_tiny(tmp_path, family)
    encoder, head = _load(tmp_path, tied=tied)
    hidden_SH = torch.randn(
        4, encoder.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
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
    hidden_1H = torch.ones(1, encoder.hidden_size, dtype=torch.float64)
    assert not head(hidden_1H).any()
    assert model[1](hidden_1H).any()


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
            "last": [last[b, columns[-1]]],
            "avg_first_last": [(first[b, n] + last[b, n]) / 2 for n in columns],
            "avg_top2": [(before_last[b, n] + last[b, n]) / 2 for n in columns],
        }[pooling]
        rows.append(sum(states) / len(states))
    return np.stack(rows)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
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
