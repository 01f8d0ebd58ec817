"""The parts of a model that a stage starts with: drawn from the seed, loaded, trained before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from clickprompt.ctr import CTRModel, build_ctr
from clickprompt.files import file_digest, value_digest
from clickprompt.modality import ModelInput
from clickprompt.models import ClickPromptForClicks
from clickprompt.parameters import (
    CTRParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PromptParameters,
    StageParameters,
)
from clickprompt.plm import PromptedEncoder, load_encoder, resolve_source
from clickprompt.prompts import AnyGenerator, build_generator
from clickprompt.training.files import check_folder, load_tensors
from clickprompt.training.result import TrainedModel


def random_source(seed: int, part: str) -> torch.Generator:
    """A part's own source of initial weights: adding a part does not change the others."""
    number = int(value_digest([seed, part])[:15], 16)
    return torch.Generator().manual_seed(number)


def fresh_ctr(ctr: CTRParameters, model_input: ModelInput, seed: int) -> CTRModel:
    """The CTR model for the fields of the data, drawn from the seed."""
    return build_ctr(
        ctr, model_input.field_sizes, model_input.bags, generator=random_source(seed, "ctr")
    )


def fresh_generator(
    ctr_model: CTRModel, encoder: PromptedEncoder, prompts: PromptParameters, seed: int
) -> AnyGenerator | None:
    """The prompt generator between the two models, drawn from the seed; None without prompts."""
    return build_generator(
        prompts,
        representation_size=ctr_model.representation_size,
        layers=encoder.layers,
        heads=encoder.heads,
        head_size=encoder.head_size,
        hidden_size=encoder.hidden_size,
        embedding_size=encoder.embedding_size,
        generator=random_source(seed, "prompts"),
    )


def load_plm(plm: PLMParameters, stage: StageParameters, seed: int) -> PromptedEncoder:
    """Dropout is for weights that are trained: a frozen PLM works as it does in evaluation."""
    if stage.learning_rate_plm == 0:
        lora = None if plm.lora is None else plm.lora.model_copy(update={"dropout": 0.0})
        plm = plm.model_copy(update={"dropout": 0.0, "lora": lora})
    return load_encoder(plm, generator=random_source(seed, "lora"))


def weights_digest(plm: PLMParameters) -> list[str]:
    """Digests of the PLM's files of weights."""
    return [file_digest(path) for path in resolve_source(plm).weight_files]


def load_parts(model: nn.Module, trained: TrainedModel, parts: tuple[str, ...]) -> None:
    """Take whole parts of a trained model; every tensor must be there and fit."""
    check_folder(Path(trained.folder))
    tensors = load_tensors(trained.weights_path)
    for part in parts:
        prefix = part + "."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        try:
            model.get_submodule(part).load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(
                f"{trained.weights_path} must fit the configured {part}: {error}"
            ) from None


def fresh_click_model(
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    stage: FinetuneWithPLMParameters,
    model_input: ModelInput,
    seed: int,
) -> ClickPromptForClicks:
    """ClickPrompt with the PLM as it came, all else drawn from the seed but the click head."""
    ctr_model = fresh_ctr(ctr, model_input, seed)
    encoder = load_plm(plm, stage, seed)
    return ClickPromptForClicks(
        ctr=ctr_model,
        generator=fresh_generator(ctr_model, encoder, prompts, seed),
        encoder=encoder,
        pooling=stage.pooling,
        fusion=stage.fusion,
        alpha=stage.alpha,
        pool_prompts=stage.pool_prompts,
    )
