"""Case files in the form of tests/golden, with this project's own classes built from them.

Everything is configured by ``fidelity: reference`` and loaded as a user's checkpoint would be. Only
what a case itself names (K, layout, a text that is not shifted, tied decoder) is set beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kedro.config import OmegaConfigLoader
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, RobertaConfig

from clickprompt.ctr import CTRModel, build_ctr
from clickprompt.parameters import ProjectParameters, check_parameters
from clickprompt.plm import PromptedEncoder, load_encoder, load_mlm_head
from clickprompt.prompts import (
    AnyGenerator,
    InputGenerator,
    build_generator,
    input_rows_from_reference,
    rows_from_reference,
)
from clickprompt.settings import CONFIG_LOADER_ARGS
from tests.end_to_end.project import REPOSITORY
from tests.reference.ctr_names import reference_name
from tests.reference.golden_ctr import ctr_name, ctr_parameters
from tests.reference.joint_twin import is_input_only

CLOSE = {"rtol": 1e-9, "atol": 1e-11}
CONFIGS = {"bert": BertConfig, "roberta": RobertaConfig}
POOLINGS = {
    "cls": "cls",
    "avg": "mean",
    "avg_first_last": "avg_first_last",
    "avg_top2": "avg_top2",
}
# Names of the MLM head in the case files -> in a checkpoint -> here.
HEADS = {
    "bert": {
        "transform.dense.weight": ("cls.predictions.transform.dense.weight", "dense.weight"),
        "transform.dense.bias": ("cls.predictions.transform.dense.bias", "dense.bias"),
        "transform.LayerNorm.weight": (
            "cls.predictions.transform.LayerNorm.weight",
            "norm.weight",
        ),
        "transform.LayerNorm.bias": ("cls.predictions.transform.LayerNorm.bias", "norm.bias"),
        "decoder.weight": ("cls.predictions.decoder.weight", "decoder"),
        "bias": ("cls.predictions.bias", "bias"),
    },
    "roberta": {
        "dense.weight": ("lm_head.dense.weight", "dense.weight"),
        "dense.bias": ("lm_head.dense.bias", "dense.bias"),
        "layer_norm.weight": ("lm_head.layer_norm.weight", "norm.weight"),
        "layer_norm.bias": ("lm_head.layer_norm.bias", "norm.bias"),
        "decoder.weight": ("lm_head.decoder.weight", "decoder"),
        "bias": ("lm_head.bias", "bias"),
    },
}


def joint_cases(folder: Path) -> list[str]:
    """Cases of a PLM with a CTR model in a folder, by their JSON."""
    found = []
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text("utf-8"))
        if isinstance(about, dict) and {"plm", "ctr_model"} <= about.keys():
            found.append(path.stem)
    return found


@dataclass(frozen=True)
class Gradient:
    """One gradient of ours; ``stored`` brings the case's to the same order of rows."""

    found: Tensor | None
    stored: Callable[[np.ndarray], np.ndarray] = lambda array: array


class Case:
    """One case: its arrays, and what the project's classes need to compute it.

    Args:
        folder: holds the JSON and the npz.
        name: of the files.
        checkpoint: empty folder, for the weights as a checkpoint.
        changes: parameters that a user would name beside ``fidelity: reference``.
    """

    def __init__(self, folder: Path, name: str, checkpoint: Path, **changes: Any) -> None:
        self.name = name
        self.about = json.loads((folder / f"{name}.json").read_text("utf-8"))
        with np.load(folder / f"{name}.npz") as file:
            self.arrays = dict(file)
        self.weights = {
            key.removeprefix("param/"): torch.from_numpy(array)
            for key, array in self.arrays.items()
            if key.startswith("param/")
        }
        self.sizes = self.about["sizes"]
        self.family = self.about["plm"]["family"].lower()
        self.input_only = is_input_only(self.weights, self.sizes)
        self.mlm = "in/mlm_labels" in self.arrays
        self._write_checkpoint(checkpoint)
        self.parameters = self._parameters(checkpoint, changes)

    # --- what is read of the files ---

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @cached_property
    def text_mask(self) -> Tensor | None:
        """(B, N) as a training batch has it: None where nothing is padded."""
        mask_BN = self.tensor("in/attention_mask").bool()
        return None if mask_BN.all() else mask_BN

    @cached_property
    def column_mask(self) -> Tensor:
        """(B, M), True at the columns that have a meaning, prompts in front included."""
        mask_BN = self.tensor("in/attention_mask").bool()
        front = self.sizes["K"] if self.input_only else 0
        return torch.cat((torch.ones(len(mask_BN), front, dtype=torch.bool), mask_BN), dim=1)

    def _write_checkpoint(self, folder: Path) -> None:
        plm, table = self.about["plm"], "nlp_encoder.embeddings.{}_embeddings.weight"
        settings = {
            name: plm[name]
            for name in (
                "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                "layer_norm_eps", "pad_token_id",
            )
            if name in plm
        }  # fmt: skip
        CONFIGS[self.family](
            **settings,
            vocab_size=len(self.weights[table.format("word")]),
            max_position_embeddings=len(self.weights[table.format("position")]),
            type_vocab_size=len(self.weights[table.format("token_type")]),
            hidden_act="gelu",
        ).save_pretrained(folder)
        tensors = {
            name.replace("nlp_encoder", self.family): tensor
            for name, tensor in self.weights.items()
            if name.startswith("nlp_encoder.")
        }
        if self.mlm:
            for theirs, (stored, _) in HEADS[self.family].items():
                tensors[stored] = self.weights[f"lm_head.{theirs}"]
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")

    def _parameters(self, checkpoint: Path, changes: dict[str, Any]) -> ProjectParameters:
        plm = {"source": str(checkpoint), "keep_layers": None, "dropout": 0.0}
        plm |= {"position_offset": 0} if self.name.endswith("_unshifted") else {}
        plm |= changes.pop("plm", {})
        layout = "input_only" if self.input_only else "key_value"
        runtime = {
            "fidelity": "reference",
            "plm": plm,
            "prompts": {"count": self.sizes["K"], "layout": layout},
        }
        loader = OmegaConfigLoader(
            conf_source=str(REPOSITORY / "conf"),
            env="base",
            runtime_params=runtime | changes,
            **CONFIG_LOADER_ARGS,
        )
        return check_parameters(loader["parameters"])

    # --- the project's classes with the case's weights, in float64 ---

    def ctr(self) -> CTRModel:
        about, prefix = self.about["ctr_model"], "ctr_model."
        name = ctr_name(about["model"])
        given = {
            key.removeprefix(prefix): tensor
            for key, tensor in self.weights.items()
            if key.startswith(prefix) and ".prompt_layers." not in key
        }
        shapes = {key: tuple(tensor.shape) for key, tensor in given.items()}
        model = build_ctr(ctr_parameters(name, about, shapes), about["field_sizes"])
        theirs = {ours: self.ctr_name(ours).removeprefix(prefix) for ours in model.state_dict()}
        # PA-MLM has no click head.
        only_logit = {id(parameter) for parameter in model.logit_parameters()}
        for ours, parameter in model.named_parameters():
            assert theirs[ours] in given or (self.mlm and id(parameter) in only_logit), ours
        assert set(given) <= set(theirs.values())
        model.load_state_dict(
            {
                ours: given[theirs[ours]].reshape(tensor.shape)
                for ours, tensor in model.state_dict().items()
                if theirs[ours] in given
            },
            strict=False,
        )
        return model

    def ctr_name(self, ours: str) -> str:
        """The reference's name of a parameter of the CTR model."""
        name = ctr_name(self.about["ctr_model"]["model"])
        shared = "ctr_model.fignn.gnn.W_in" in self.weights
        return "ctr_model." + reference_name(name, ours, shared=shared)

    def encoder(self) -> PromptedEncoder:
        return load_encoder(self.parameters.plm)

    def mlm_head(self, encoder: PromptedEncoder) -> nn.Module:
        tied = self.parameters.pretrain.masking.tied
        return load_mlm_head(self.parameters.plm, encoder, tied=tied)

    def generator(self, ctr: CTRModel, encoder: PromptedEncoder) -> AnyGenerator:
        built = build_generator(
            self.parameters.prompts,
            representation_size=ctr.representation_size,
            layers=encoder.layers,
            heads=encoder.heads,
            head_size=encoder.head_size,
            hidden_size=encoder.hidden_size,
            embedding_size=encoder.embedding_size,
            generator=torch.Generator(),
        )
        assert built is not None
        given = {k: v for k, v in self.weights.items() if ".prompt_layers." in k}
        state = {}
        for kind in ("weight", "bias"):
            if self.input_only:
                rows = [
                    given[f"ctr_model.prompt_layers.{k}.{kind}"] for k in range(len(given) // 2)
                ]
                count = self.sizes["K"]
                state[f"projections.{kind}"] = input_rows_from_reference(rows, count=count)
            else:
                last = given[f"ctr_model.prompt_layers.2.{kind}"]
                state[f"first.{kind}"] = given[f"ctr_model.prompt_layers.0.{kind}"]
                state[f"second.{kind}"] = self.rows(last)
        built.load_state_dict(state)
        return built

    def rows(self, tensor: Tensor) -> Tensor:
        """Rows of the layer-wise generator in our order."""
        return rows_from_reference(
            tensor,
            layers=self.sizes["L"],
            heads=self.sizes["A"],
            head_size=self.sizes["d"],
            count=self.sizes["K"],
        )

    # --- comparisons ---

    def check(self, name: str, found: Tensor, at: Tensor | None = None) -> None:
        """An output; ``at`` chooses the columns that have a meaning."""
        expected = self.tensor(name)
        found = found.detach()
        if at is not None:
            expected, found = expected[at], found[at]
        np.testing.assert_allclose(found, expected, err_msg=f"{self.name} {name}", **CLOSE)

    def gradients(self, model: Any) -> dict[str, Gradient]:
        """Gradients of a model's parameters under the reference's names."""
        found = {
            f"nlp_encoder.{name}": Gradient(parameter.grad)
            for name, parameter in model.encoder.model.named_parameters()
        }
        for name, parameter in model.ctr.named_parameters():
            shape = tuple(parameter.shape)
            found[self.ctr_name(name)] = Gradient(parameter.grad, lambda a, s=shape: a.reshape(s))
        for kind in ("weight", "bias"):
            prefix = "ctr_model.prompt_layers"
            if isinstance(model.generator, InputGenerator):
                whole = getattr(model.generator.projections, kind).grad
                parts = whole.unflatten(0, model.generator.shape)
                for k, part in enumerate(parts):
                    found[f"{prefix}.{k}.{kind}"] = Gradient(part)
            else:
                found[f"{prefix}.0.{kind}"] = Gradient(getattr(model.generator.first, kind).grad)
                found[f"{prefix}.2.{kind}"] = Gradient(
                    getattr(model.generator.second, kind).grad,
                    lambda array: self.rows(torch.from_numpy(array)).numpy(),
                )
        if self.mlm:
            own = dict(model.mlm_head.named_parameters())
            for theirs, (_, ours) in HEADS[self.family].items():
                if ours in own:
                    found[f"lm_head.{theirs}"] = Gradient(own[ours].grad)
            found["lm_head.decoder.bias"] = found["lm_head.bias"]  # one tensor with two names there
            return found
        for name, parameter in model.click_head.named_parameters():
            found[f"nlp_head.{name}"] = Gradient(parameter.grad)
        if model.alpha is not None:
            # The reference's alpha stands on the PLM: alpha = 1 - ours.
            found["alpha"] = Gradient(None if model.alpha.grad is None else -model.alpha.grad)
        return found

    def check_gradients(self, setting: str, model: Any, skip: tuple[str, ...] = ()) -> int:
        """Compare all stored gradients of a setting; how many there were."""
        prefix, found = f"grad/{setting}/", self.gradients(model)
        stored = {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)}
        for name, array in stored.items():
            if name in skip:
                continue
            if name == "alpha" and name not in found:
                assert not array.any(), "alpha has a gradient, but there is none in a sum"
                continue
            expected = found[name].stored(array)
            gradient = found[name].found
            # A parameter that the loss does not reach: zeros in the reference, none here.
            value = np.zeros_like(expected) if gradient is None else gradient.numpy()
            np.testing.assert_allclose(
                value.reshape(expected.shape),
                expected,
                err_msg=f"{self.name} {setting} {name}",
                **CLOSE,
            )
        return len(stored)
