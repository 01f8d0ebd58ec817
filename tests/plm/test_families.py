"""What single families do: a NumPy twin of GPT-2, wrapped projections, what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from clickprompt.parameters import PLMParameters
from clickprompt.plm import load_encoder
from clickprompt.plm.families import FAMILIES, family_of
from clickprompt.prompts import KeyValuePrompts
from tests.plm.tiny import LAYERS, save_tiny
from tests.reference import gpt2_layer as twin

TOKENS_BN = torch.tensor([[2, 17, 33, 90, 3], [2, 45, 8, 100, 3]])


def _load(folder, family: str, **changes):
    save_tiny(folder, family, **changes)
    return load_encoder(PLMParameters(source=str(folder), keep_layers=None)).eval().double()


def test_a_causal_layer_is_the_twins(tmp_path):
    """One layer of GPT-2 with prompts: attention, projections, norms, feed-forward part."""
    encoder = _load(tmp_path, "gpt2", n_layer=1)
    shape = (2, 2, 1, encoder.heads, 3, encoder.head_size)
    draw = np.random.default_rng(0).normal(size=shape)
    key_BLAKd, value_BLAKd = torch.from_numpy(draw)
    with torch.no_grad():
        found_BNH = encoder(TOKENS_BN, None, KeyValuePrompts(key_BLAKd, value_BLAKd)).numpy()
    weights = {name: weight.numpy() for name, weight in encoder.model.state_dict().items()}
    inside = {k.removeprefix("h.0."): w for k, w in weights.items() if k.startswith("h.0.")}
    hidden_BNH = weights["wte.weight"][TOKENS_BN.numpy()] + weights["wpe.weight"][:5]
    hidden_BNH = twin.layer(inside, hidden_BNH, draw[0][:, 0], draw[1][:, 0])
    expected_BNH = twin.norm(hidden_BNH, weights["ln_f.weight"], weights["ln_f.bias"])
    np.testing.assert_allclose(found_BNH, expected_BNH, rtol=1e-9, atol=1e-11)


class _Doubled(nn.Module):
    """Stands for what adapts a layer: its weight alone does not tell what it gives."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.weight = inside.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inside(x)


@pytest.mark.parametrize(
    ("family", "fused"), [("gpt2", "attn.c_attn"), ("modernbert", "attn.Wqkv")]
)
def test_a_wrapped_projection_is_asked_and_not_its_weight(family, fused, tmp_path):
    plain = _load(tmp_path, family)
    wrapped, scaled = copy.deepcopy(plain), copy.deepcopy(plain)
    for layer in wrapped.family.layers(wrapped.model):
        holder, name = layer.get_submodule("attn"), fused.split(".")[1]
        setattr(holder, name, _Doubled(getattr(holder, name)))
    with torch.no_grad():
        for layer in scaled.family.layers(scaled.model):
            for parameter in layer.get_submodule(fused).parameters():
                parameter.mul_(2)
        at = (torch.tensor([0, 1, 1]), torch.tensor([2, 0, 4]))
        found = wrapped(TOKENS_BN, None, last_layer_at=at)
        expected = scaled(TOKENS_BN, None, last_layer_at=at)
        other = plain(TOKENS_BN, None, last_layer_at=at)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert (found - other).abs().max() > 1e-3


def test_a_local_layer_sees_its_window_and_all_prompts(tmp_path):
    """ModernBERT with local layers only: texts far away do not matter, prompts do."""
    encoder = _load(tmp_path, "modernbert", layer_types=["sliding_attention"] * LAYERS)
    token_ids_1N = torch.arange(5, 25)[None]
    changed_1N = token_ids_1N.clone()
    changed_1N[0, 0] += 1
    shape = (2, 1, LAYERS, encoder.heads, 1, encoder.head_size)
    key, value = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = encoder(token_ids_1N, None, KeyValuePrompts(key, value))[0]
        after = encoder(changed_1N, None, KeyValuePrompts(key, value))[0]
        prompted = encoder(token_ids_1N, None, KeyValuePrompts(key + 1, value))[0]
    reached = 2 * LAYERS  # the window is 2 in each layer
    assert (after[: reached + 1] != before[: reached + 1]).any(dim=-1).all()
    torch.testing.assert_close(after[reached + 1 :], before[reached + 1 :], rtol=0, atol=1e-13)
    assert (prompted != before).any(dim=-1).all()


@pytest.mark.parametrize("keep_layers", [None, 2])
def test_a_modernbert_configuration_of_the_hub(keep_layers, tmp_path):
    """Published ones name both bases, and say how many layers apart the global ones are."""
    bases = {"full_attention": 160000.0, "sliding_attention": 10000.0}
    rope = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}
    save_tiny(tmp_path, "modernbert", rope_parameters=rope)
    parameters = PLMParameters(source=str(tmp_path), keep_layers=keep_layers)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    with torch.no_grad():
        expected = load_encoder(parameters).eval()(TOKENS_BN, None)
        del config["layer_types"], config["rope_parameters"]
        old = {"global_rope_theta": bases["full_attention"], "local_rope_theta": 10000.0}
        path.write_text(json.dumps(config | old | {"global_attn_every_n_layers": 3}))
        encoder = load_encoder(parameters).eval()
        assert torch.equal(encoder(TOKENS_BN, None), expected)
        kinds = [encoder.family.parts(layer).rotation for layer in encoder.model.layers]
        assert kinds == ["full_attention", *["sliding_attention"] * 2][:keep_layers]
        # Another base must matter, or nothing was tested.
        path.write_text(json.dumps(config | old | {"local_rope_theta": 3.0}))
        assert not torch.equal(load_encoder(parameters).eval()(TOKENS_BN, None), expected)


@pytest.mark.parametrize("model_type", ["deberta", "deberta-v2"])
def test_disentangled_attention_is_refused_with_the_reason(model_type):
    names = ", ".join(FAMILIES)
    with pytest.raises(
        ValueError, match=rf"\({names}\), got model_type '{model_type}': .* distance .* prompt"
    ):
        family_of(model_type)


def test_other_families_are_refused():
    with pytest.raises(ValueError, match=r"supported family \(bert, .*gpt2\), got .* 'bart'$"):
        family_of("bart")
