"""What an observer is told of the attention on prompts, and that nothing changes without one."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from clickprompt.parameters import PLMParameters
from clickprompt.plm import PromptedEncoder, load_encoder
from clickprompt.plm import encoder as encoder_module
from clickprompt.plm.observation import PromptShares, prompt_shares
from clickprompt.prompts import HiddenStatePrompts, InputPrompts, KeyValuePrompts, Prompts
from tests.plm.tiny import FIRST_POSITION, PADDING, save_tiny
from tests.reference.prompt_mass import prompt_mass

PROMPTS = 3
LENGTHS = torch.tensor([12, 9, 3, 10])
MASK_BN = torch.arange(12) < LENGTHS[:, None]
LAYOUTS = ("key_value", "hidden_state", "input_only")


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=["sdpa", "matmul"])
def encoder(request, family, tmp_path_factory) -> PromptedEncoder:
    folder = tmp_path_factory.mktemp(family)
    save_tiny(folder, family)
    parameters = PLMParameters(source=str(folder), keep_layers=None, attention=request.param)
    return load_encoder(parameters).eval().double()


def tokens(padding: int) -> torch.Tensor:
    token_ids_BN = torch.randint(5, 100, MASK_BN.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(MASK_BN, token_ids_BN, padding)


def prompts_of(encoder: PromptedEncoder, layout: str, scale: float = 1.0) -> Prompts:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return scale * torch.randn(len(LENGTHS), *shape, generator=generator, dtype=torch.float64)

    heads = (encoder.layers, encoder.heads, PROMPTS, encoder.head_size)
    if layout == "key_value":
        return KeyValuePrompts(draw(*heads), draw(*heads))
    if layout == "hidden_state":
        return HiddenStatePrompts(draw(encoder.layers, PROMPTS, encoder.hidden_size))
    return InputPrompts(draw(PROMPTS, encoder.embedding_size))


def observed(encoder, token_ids_BN, mask_BN, prompts) -> list[PromptShares]:
    seen: list[PromptShares] = []
    with torch.no_grad():
        encoder(token_ids_BN, mask_BN, prompts, observe=seen.append)
    return seen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shares_against_the_slow_twin(encoder, family, layout, causal):
    encoder = copy.deepcopy(encoder)
    encoder.family = dataclasses.replace(encoder.family, causal=causal)
    prompts = prompts_of(encoder, layout)
    token_ids_BN = tokens(PADDING[family])
    seen = observed(encoder, token_ids_BN, MASK_BN, prompts)
    assert [shares.layer for shares in seen] == list(range(encoder.layers))
    weights = {name: tensor.numpy() for name, tensor in encoder.model.state_dict().items()}
    names = {"key_BLAKd": "keys", "value_BLAKd": "values"}
    names |= {"vector_BLKH": "hidden", "vector_BKE": "inputs"}
    for row, length in enumerate(LENGTHS.tolist()):
        own = {names[name]: tensor[row].numpy() for name, tensor in vars(prompts).items()}
        mass_LNAK = prompt_mass(
            weights,
            token_ids_BN[row, :length].numpy(),
            heads=encoder.heads,
            first_position=FIRST_POSITION[family],
            epsilon=encoder.model.config.layer_norm_eps,
            causal=causal,
            **own,
        )
        for shares, expected_NAK in zip(seen, mass_LNAK, strict=True):
            found_NAK = shares.share_BNAK[row, :length].numpy()
            np.testing.assert_allclose(found_NAK, expected_NAK, rtol=1e-9, atol=1e-15)
            alike = [PROMPTS / (PROMPTS + (n + 1 if causal else length)) for n in range(length)]
            np.testing.assert_allclose(shares.indifferent_BN[row, :length].numpy(), alike)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_uniform_attention_gives_k_of_k_plus_n(encoder, family, layout):
    encoder = copy.deepcopy(encoder)
    for layer in encoder.family.layers(encoder.model):
        torch.nn.init.zeros_(layer.attention.self.query.weight)
        torch.nn.init.zeros_(layer.attention.self.query.bias)
    seen = observed(encoder, tokens(PADDING[family]), MASK_BN, prompts_of(encoder, layout))
    for shares in seen:
        for row, length in enumerate(LENGTHS.tolist()):
            share_NAK = shares.share_BNAK[row, :length]
            each = torch.full_like(share_NAK, 1 / (PROMPTS + length))
            torch.testing.assert_close(share_NAK, each, rtol=1e-12, atol=0)
            together_N = share_NAK.sum(dim=2).mean(dim=1)
            torch.testing.assert_close(shares.indifferent_BN[row, :length], together_N)


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_what_prompts_and_text_get_is_one():
    """The text as prompts of the prompts gets the rest."""
    query, text, prompts = draw(2, 4, 7, 8), draw(2, 4, 6, 8), draw(2, 4, 3, 8)
    of_prompts, _ = prompt_shares(query, text, prompts, None, front=0, scaling=0.3)
    of_text, _ = prompt_shares(query, prompts, text, None, front=0, scaling=0.3)
    assert of_prompts.shape == (2, 7, 4, 3)
    together = of_prompts.sum(dim=3) + of_text.sum(dim=3)
    torch.testing.assert_close(together, torch.ones_like(together), rtol=1e-12, atol=0)
    assert of_prompts.min() > 0


def test_prompts_with_huge_keys_take_all():
    """One of two opposite keys has a huge score with any query."""
    key = 1e6 * draw(2, 4, 1, 8)
    share, _ = prompt_shares(
        draw(2, 4, 7, 8),
        draw(2, 4, 6, 8),
        torch.cat((key, -key), dim=2),
        None,
        front=0,
        scaling=1.0,
    )
    torch.testing.assert_close(share.sum(dim=3), torch.ones(2, 7, 4, dtype=torch.float64))


def test_what_a_window_hides_gets_nothing():
    """Prompts in front are text columns to a window, prompts of a layer are not."""
    visible = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    for query, first in enumerate((0, 0, 1, 2)):
        visible[0, 0, query, first : query + 1] = True
    query, key = draw(1, 2, 4, 8), draw(1, 2, 4, 8)
    share, indifferent = prompt_shares(query, key, None, visible, front=2, scaling=1.0)
    assert (share[0, 3] == 0).all()
    assert (share[0, 2, :, 0] == 0).all()
    assert (share[0, 2, :, 1] > 0).all()
    assert indifferent.tolist() == [[1.0, 1.0, 0.5, 0.0]]
    _, own = prompt_shares(query, key, draw(1, 2, 3, 8), visible, front=0, scaling=1.0)
    torch.testing.assert_close(own, torch.tensor([[3 / 4, 3 / 5, 3 / 5, 3 / 5]]).double())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_observer_changes_no_bit_of_outputs_and_gradients(encoder, family, layout):
    results = []
    for observe in (None, lambda shares: None):
        prompts = prompts_of(encoder, layout)
        tensors = [tensor.requires_grad_() for tensor in vars(prompts).values()]
        encoder.zero_grad()
        hidden = encoder(tokens(PADDING[family]), MASK_BN, prompts, observe=observe)
        hidden[MASK_BN].square().sum().backward()
        gradients = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
        results.append((hidden[MASK_BN], *gradients, *(tensor.grad for tensor in tensors)))
    assert len(results[0]) == len(results[1]) > 20
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_without_an_observer_nothing_is_computed_for_it(encoder, family, monkeypatch):
    """The weights are computed a second time where somebody observes, and only there."""
    monkeypatch.setattr(encoder_module, "prompt_shares", lambda *_, **__: pytest.fail("computed"))
    prompts = prompts_of(encoder, "key_value")
    with torch.no_grad():
        encoder(tokens(PADDING[family]), MASK_BN, prompts)
        encoder(tokens(PADDING[family]), MASK_BN, prompts, all_layers=True)
    with pytest.raises(pytest.fail.Exception, match="computed"):
        observed(encoder, tokens(PADDING[family]), MASK_BN, prompts)


def test_shares_are_float32_under_autocast(encoder, family):
    encoder = copy.deepcopy(encoder).float()
    double = prompts_of(encoder, "key_value")
    prompts = KeyValuePrompts(double.key_BLAKd.float(), double.value_BLAKd.float())
    exact = observed(encoder, tokens(PADDING[family]), MASK_BN, prompts)
    with torch.autocast("cpu", torch.bfloat16):
        rough = observed(encoder, tokens(PADDING[family]), MASK_BN, prompts)
    for one, other in zip(exact, rough, strict=True):
        assert other.share_BNAK.dtype == torch.float32
        torch.testing.assert_close(
            other.share_BNAK[MASK_BN], one.share_BNAK[MASK_BN], rtol=0, atol=0.02
        )


def test_wrong_uses_are_named(encoder, family):
    prompts = prompts_of(encoder, "key_value")
    at = (torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="last_layer_at must be None with observe, got both"):
        encoder(tokens(PADDING[family]), MASK_BN, prompts, last_layer_at=at, observe=print)
    with pytest.raises(ValueError, match="prompts must be given with observe, got None"):
        encoder(tokens(PADDING[family]), MASK_BN, observe=print)
