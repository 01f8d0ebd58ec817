"""The encoder, the generator and the heads against numbers of the authors' own code.

tests/golden/README.md tells what the arrays are. The CTR model is written out here in a few
lines of torch (it has its own tests), so that gradients of every parameter can be compared.
All in float64.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertModel

from clickprompt.plm import MLMHead, PromptedEncoder, pool
from clickprompt.plm.attention import KERNELS
from clickprompt.plm.families import FAMILIES
from clickprompt.prompts import PromptGenerator, rows_from_reference

GOLDEN = Path(__file__).parents[1] / "golden"
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
HEAD_NAMES = {
    "lm_head.transform.dense.weight": "dense.weight",
    "lm_head.transform.dense.bias": "dense.bias",
    "lm_head.transform.LayerNorm.weight": "norm.weight",
    "lm_head.transform.LayerNorm.bias": "norm.bias",
    "lm_head.decoder.weight": "decoder",
    "lm_head.bias": "bias",
}
POOLINGS = {
    "cls": "cls",
    "avg": "mean",
    "avg_first_last": "avg_first_last",
    "avg_top2": "avg_top2",
}


@dataclass
class Golden:
    """One case: its arrays, and our modules with the reference's weights in them."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    encoder: PromptedEncoder
    generator: PromptGenerator
    other: dict[str, Tensor]  # weights of the CTR model and of the click heads

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def check(self, name: str, found: Tensor) -> None:
        np.testing.assert_allclose(found.detach(), self.arrays[name], err_msg=name, **CLOSE)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.other[f"{name}.weight"], self.other[f"{name}.bias"])

    def representation(self) -> Tensor:
        """q of the tiny DNN or parallel DCNv2."""
        x0 = self.other["ctr_model.embed.embedding.weight"][self.tensor("in/x_id")].flatten(1)
        crossed = self.about["ctr_model"]["model"] == "DCNv2"
        deep_name = "ctr_model.parallel_dnn.dnn" if crossed else "ctr_model.dnn.dnn"
        deep = torch.relu(self.linear(f"{deep_name}.0", x0))
        deep = torch.relu(self.linear(f"{deep_name}.3", deep))
        if not crossed:
            return deep
        cross = x0
        for layer in range(self.about["ctr_model"]["num_cross_layers"]):
            cross = cross + x0 * self.linear(f"ctr_model.cross_net.cross_layers.{layer}", cross)
        return torch.cat((cross, deep), dim=1)

    def generator_rows(self, array: np.ndarray) -> Tensor:
        sizes = self.about["sizes"]
        return rows_from_reference(
            torch.from_numpy(array),
            layers=sizes["L"],
            heads=sizes["A"],
            head_size=sizes["d"],
            count=sizes["K"],
        )

    def gradients(self, head: MLMHead | None = None) -> dict[str, Tensor | None]:
        """Gradients of all our parameters under the reference's names."""
        found = {f"nlp_encoder.{n}": p.grad for n, p in self.encoder.model.named_parameters()}
        found |= {name: tensor.grad for name, tensor in self.other.items()}
        for ours, number in ((self.generator.first, 0), (self.generator.second, 2)):
            found[f"ctr_model.prompt_layers.{number}.weight"] = ours.weight.grad
            found[f"ctr_model.prompt_layers.{number}.bias"] = ours.bias.grad
        if head is not None:
            ours = dict(head.named_parameters())
            found |= {n: ours[name].grad for n, name in HEAD_NAMES.items() if name in ours}
        return found

    def check_gradients(
        self, setting: str, head: MLMHead | None = None, skip: tuple[str, ...] = ()
    ) -> int:
        """Compare every stored gradient of a setting; how many there were."""
        found = self.gradients(head)
        prefix = f"grad/{setting}/"
        stored = {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)}
        for name, array in stored.items():
            if name in skip:
                continue
            rows = name.startswith("ctr_model.prompt_layers.2")
            expected = self.generator_rows(array).numpy() if rows else array
            gradient = found[name]
            # A parameter that the loss does not reach: zeros in the reference, none here.
            gradient = np.zeros_like(expected) if gradient is None else gradient
            np.testing.assert_allclose(gradient, expected, err_msg=name, **CLOSE)
        return len(stored)


def _load(name: str, kernel: str = "matmul") -> Golden:
    about = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file}
    weights = {
        key.removeprefix("param/"): torch.from_numpy(array.astype(np.float64))
        for key, array in arrays.items()
        if key.startswith("param/")
    }
    sizes, plm = about["sizes"], about["plm"]
    config = BertConfig(
        vocab_size=plm["vocab_size"],
        hidden_size=plm["hidden_size"],
        num_hidden_layers=plm["num_hidden_layers"],
        num_attention_heads=plm["num_attention_heads"],
        intermediate_size=plm["intermediate_size"],
        max_position_embeddings=plm["max_position_embeddings"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=plm["layer_norm_eps"],
    )
    model = BertModel(config, add_pooling_layer=False).double()
    own = {k.removeprefix("nlp_encoder."): w for k, w in weights.items() if "nlp_encoder" in k}
    model.load_state_dict(own, strict=True)
    shifted = not name.endswith("_unshifted")
    encoder = PromptedEncoder(
        model=model,
        family=FAMILIES["bert"],
        attention=kernel,
        position_offset=sizes["K"] if shifted else 0,
    ).eval()
    generator = PromptGenerator(
        representation_size=sizes["D"],
        layers=sizes["L"],
        heads=sizes["A"],
        head_size=sizes["d"],
        count=sizes["K"],
    ).double()
    other = {
        key: weight.requires_grad_()
        for key, weight in weights.items()
        if key.split(".")[0] in ("alpha", "nlp_head", "ctr_model") and "prompt_layers" not in key
    }
    golden = Golden(arrays, about, encoder, generator, other)
    last = {
        part: golden.generator_rows(weights[f"ctr_model.prompt_layers.2.{part}"].numpy())
        for part in ("weight", "bias")
    }
    generator.load_state_dict(
        {
            "first.weight": weights["ctr_model.prompt_layers.0.weight"],
            "first.bias": weights["ctr_model.prompt_layers.0.bias"],
            "second.weight": last["weight"],
            "second.bias": last["bias"],
        }
    )
    return golden


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("name", "gradients"),
    [
        ("bert_dcnv2_finetune_padded_unshifted", 5 + 6),
        ("bert_dcnv2_finetune_padded", 72 + 6 + 3 * 5),
        ("bert_dnn_finetune_equal_length", 5 + 6),
    ],
)
def test_finetuning(name, gradients, kernel):
    golden = _load(name, kernel)
    mask_BN = golden.tensor("in/attention_mask").bool()
    checked = 0
    for setting in sorted(n.removeprefix("out/loss/") for n in golden.arrays if "out/loss/" in n):
        pooling, fusion = setting.split("__")
        golden.encoder.zero_grad()
        golden.generator.zero_grad()
        for tensor in golden.other.values():
            tensor.grad = None
        representation_BD = golden.representation()
        prompts = golden.generator(representation_BD)
        hiddens = golden.encoder(golden.tensor("in/input_ids"), mask_BN, prompts, all_layers=True)
        pooled_BH = pool(hiddens, mask_BN, POOLINGS[pooling])
        z_plm_B = golden.linear("nlp_head.2", torch.tanh(golden.linear("nlp_head.0", pooled_BH)))
        z_ctr_B = golden.linear("ctr_model.fc_out", representation_BD)
        z_plm_B, z_ctr_B = z_plm_B.squeeze(1), z_ctr_B.squeeze(1)
        alpha = golden.other["alpha"]
        logit_B = z_plm_B + z_ctr_B if fusion == "sum" else alpha * z_plm_B + (1 - alpha) * z_ctr_B
        loss = functional.binary_cross_entropy_with_logits(
            logit_B, golden.tensor("in/label").double()
        )
        loss.backward()
        golden.check("out/q", representation_BD)
        golden.check("out/prompt_keys", prompts.key_BLAKd)
        golden.check("out/prompt_values", prompts.value_BLAKd)
        for hidden_BNH, expected in zip(
            hiddens, golden.tensor("out/hidden_states")[1:], strict=True
        ):
            np.testing.assert_allclose(hidden_BNH.detach()[mask_BN], expected[mask_BN], **CLOSE)
        golden.check(f"out/pooled/{pooling}", pooled_BH)
        golden.check(f"out/z_plm/{pooling}", z_plm_B)
        golden.check(f"out/logit/{setting}", logit_B)
        golden.check(f"out/loss/{setting}", loss)
        checked += golden.check_gradients(setting)
    assert checked == gradients


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("bert_dcnv2_mlm_unshifted", False),
        ("bert_dcnv2_mlm_tied_values", False),
        ("bert_dcnv2_mlm_tied_values", True),
    ],
)
def test_pretraining(name, tied, short, kernel):
    golden = _load(name, kernel)
    head = MLMHead(encoder=golden.encoder, tied=tied).double()
    head.load_state_dict(
        {
            ours: golden.tensor(f"param/{theirs}").double()
            for theirs, ours in HEAD_NAMES.items()
            if ours in dict(head.named_parameters())
        }
    )
    mask_BN = golden.tensor("in/attention_mask").bool()
    rows_S, columns_S = golden.tensor("in/selected").T
    prompts = golden.generator(golden.representation())
    arguments = golden.tensor("in/masked_input_ids"), mask_BN, prompts
    if short:
        hidden_SH = golden.encoder(*arguments, last_layer_at=(rows_S, columns_S))
    else:
        hidden_BNH = golden.encoder(*arguments)
        expected = golden.arrays["out/last_hidden"][mask_BN]
        np.testing.assert_allclose(hidden_BNH.detach()[mask_BN], expected, **CLOSE)
        hidden_SH = hidden_BNH[rows_S, columns_S]
    logits_SV = head(hidden_SH)
    targets_S = golden.tensor("in/mlm_labels")[rows_S, columns_S]
    loss = functional.cross_entropy(logits_SV, targets_S)
    loss.backward()
    golden.check("out/logits_selected", logits_SV)
    golden.check("out/loss", loss)
    table, decoder = "nlp_encoder.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
    if tied:
        total = golden.arrays[f"grad/mlm/{table}"] + golden.arrays[f"grad/mlm/{decoder}"]
        np.testing.assert_allclose(golden.encoder.word_embeddings.weight.grad, total, **CLOSE)
    checked = golden.check_gradients("mlm", head, skip=(table, decoder) if tied else ())
    assert checked == len([n for n in golden.arrays if n.startswith("grad/mlm/")]) > 0


def test_the_positions_are_the_cases_own():
    for name, first in (("bert_dcnv2_mlm_unshifted", 0), ("bert_dcnv2_mlm_tied_values", 3)):
        golden = _load(name)
        assert golden.arrays["in/position_ids"][0].tolist() == list(range(first, first + 12))


def test_shifted_positions_count_towards_the_limit():
    golden = _load("bert_dcnv2_mlm_tied_values")
    assert golden.encoder.position_limit == 64 - 3
    with pytest.raises(ValueError, match=r"at most 61 tokens .* got 62"):
        golden.encoder(torch.full((1, 62), 7), None)
