"""The bundle: one folder with all that scoring needs.

    bundle.json            format, model, parameters, data parameters, sizes, digests, versions
    weights.safetensors    the model's weights
    vocabularies.json      of every field
    bags.safetensors       combinations of the bag fields in training, where there are any
    tokenizer.json         with a language model: its tokenizer,
    plm_config.json        and its configuration, from which the architecture is built
    manifest.json          size and sha256 of every other file

A fresh process reads nothing else: no conf, no data, no files of the language model.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clickprompt.ctr import build_ctr
from clickprompt.files import file_digest, value_digest
from clickprompt.modality import ModelInput, PieceTokenizer, Vocabulary
from clickprompt.models import ClickPromptForClicks, CTRForClicks
from clickprompt.parameters import (
    CTRParameters,
    DataParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PromptParameters,
)
from clickprompt.plm import build_encoder, encoder_config, load_tokenizer
from clickprompt.prompts import build_generator
from clickprompt.training.files import (
    MANIFEST,
    DamagedFolderError,
    check_folder,
    load_tensors,
    save_tensors,
    write_folder,
)
from clickprompt.training.result import TrainedModel

FORMAT = "1.0"  # major.minor; a reader takes every minor of its major

SETTINGS = "bundle.json"
WEIGHTS = "weights.safetensors"
VOCABULARIES = "vocabularies.json"
BAGS = "bags.safetensors"
TOKENIZER = "tokenizer.json"
PLM_CONFIG = "plm_config.json"

PACKAGES = ("clickprompt", "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow")


class BundleError(ValueError):
    """A folder is no bundle, was changed, or is of another major version."""


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds beside the weights.

    Attributes:
        folder: where it lies.
        settings: ``bundle.json``.
        data: fields, template and word for missing values, and how cells are written.
        vocabularies: of the fields in their order.
        bags: combinations of the bag fields in training.
        tokenizer: None without a language model.
    """

    folder: Path
    settings: dict[str, Any]
    data: DataParameters
    vocabularies: tuple[Vocabulary, ...]
    bags: dict[int, np.ndarray]
    tokenizer: PieceTokenizer | None

    @property
    def stage(self) -> str:
        """Training stage of the weights, such as ``finetune_with_plm``."""
        return str(self.settings["stage"])

    @property
    def has_plm(self) -> bool:
        """Whether a language model reads the text."""
        return self.tokenizer is not None

    @property
    def max_tokens(self) -> int:
        """Longest text of a row, special tokens included."""
        return int(self.settings["max_tokens"])

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Check a folder and read it.

        Raises:
            BundleError: it is no bundle, a file was changed (it is named), or it has another major
                version.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file() or not (folder / SETTINGS).is_file():
            raise BundleError(
                f"{folder} must be a bundle, got no {SETTINGS} with {MANIFEST} there: "
                f"kedro run writes them under data/06_models/bundles"
            )
        _check_format(folder)
        try:
            check_folder(folder)
        except DamagedFolderError as error:
            reason = str(error).partition("; delete")[0]
            raise BundleError(f"a bundle must be as it was written, got: {reason}") from None
        settings = json.loads((folder / SETTINGS).read_text("utf-8"))
        stored = json.loads((folder / VOCABULARIES).read_text("utf-8"))
        tokenizer = None
        if settings["tokenizer"] is not None:
            kept = settings["tokenizer"]
            tokenizer = PieceTokenizer.restore(
                (folder / TOKENIZER).read_text("utf-8"),
                kept["name"],
                kept["special_tokens"],
                kept["special_token_ids"],
            )
        bags = {}
        if (folder / BAGS).is_file():
            bags = {int(n): bag.numpy() for n, bag in load_tensors(folder / BAGS).items()}
        return cls(
            folder=folder,
            settings=settings,
            data=DataParameters.model_validate(settings["data"]),
            vocabularies=tuple(Vocabulary.from_dict(entry) for entry in stored),
            bags=bags,
            tokenizer=tokenizer,
        )

    def build(self) -> CTRForClicks | ClickPromptForClicks:
        """The model with its weights, in evaluation mode.

        Raises:
            BundleError: the weights do not fit the configuration.
        """
        parameters = self.settings["parameters"]
        ctr = build_ctr(
            CTRParameters.model_validate(parameters["ctr"]),
            self.settings["field_sizes"],
            self.bags,
        )
        model: nn.Module
        if not self.has_plm:
            model = CTRForClicks(ctr=ctr)
        else:
            stage = FinetuneWithPLMParameters.model_validate(parameters["stage"])
            prompts = PromptParameters.model_validate(parameters["prompts"])
            config = json.loads((self.folder / PLM_CONFIG).read_text("utf-8"))
            encoder = build_encoder(config, PLMParameters.model_validate(parameters["plm"]))
            generator = build_generator(
                prompts,
                representation_size=ctr.representation_size,
                layers=encoder.layers,
                heads=encoder.heads,
                head_size=encoder.head_size,
                hidden_size=encoder.hidden_size,
                embedding_size=encoder.embedding_size,
                generator=torch.Generator().manual_seed(0),
            )
            model = ClickPromptForClicks(
                ctr=ctr,
                generator=generator,
                encoder=encoder,
                pooling=stage.pooling,
                fusion=stage.fusion,
                alpha=stage.alpha,
                pool_prompts=stage.pool_prompts,
            )
        try:
            model.load_state_dict(load_tensors(self.folder / WEIGHTS))
        except RuntimeError as error:
            raise BundleError(
                f"{self.folder / WEIGHTS} must fit {SETTINGS} beside it: {error}"
            ) from None
        return model.eval().requires_grad_(False)


def write_bundle(
    folder: str | Path, trained: TrainedModel, model_input: ModelInput, data: DataParameters
) -> Path:
    """Make a bundle of a trained model; an older one is replaced.

    Args:
        folder: where the bundle shall stand.
        trained: a stage that predicts clicks by a CTR model alone, or by ClickPrompt.
        model_input: what it was trained on.
        data: fields, template and cells of that data.

    Raises:
        ValueError: the stage is another one, or was trained on other data.
        OSError: the folder cannot be written; an older one is unchanged.
    """
    parts = set(trained.report["parameter_counts"])
    parameters = trained.report["parameters"]
    with_plm = trained.stage == "finetune_with_plm"
    if (not with_plm and parts != {"ctr"}) or trained.stage == "pretrain":
        raise ValueError(
            "a bundle must be of a CTR model alone or of ClickPrompt finetuned, "
            f"got stage {trained.stage!r} with the parts {', '.join(sorted(parts))}"
        )
    if trained.report["data"] != model_input.digest:
        raise ValueError(
            f"model_input must be what {trained.stage} was trained on "
            f"({trained.report['data'][:12]}), got {model_input.digest[:12]}"
        )
    check_folder(Path(trained.folder))
    kept = {name: parameters[name] for name in ("ctr", "plm", "prompts") if name in parameters}
    if with_plm:
        kept["stage"] = parameters["stage"]
        # A folder of the machine that trained says nothing here, and the weights are the bundle's.
        plm = PLMParameters.model_validate(parameters["plm"])
        kept["plm"] = parameters["plm"] | {"source": Path(plm.source).name, "sha256": None}
    settings: dict[str, Any] = {
        "format": FORMAT,
        "stage": trained.stage,
        "variant": trained.report.get("variant"),
        "parameters": kept,
        "data": data.model_dump(mode="json"),
        "field_sizes": list(model_input.field_sizes),
        "max_tokens": model_input.max_tokens,
        "precision": trained.report["precision"],
        "tokenizer": None,
        "out_of_vocabulary": _unseen_shares(model_input),
        "digests": {
            "trained": trained.digest,
            "data": model_input.digest,
            "parameters": value_digest(parameters),
        },
        "metrics": trained.report["metrics"],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    texts: dict[str, str] = {}
    if with_plm:
        tokenizer = _tokenizer(plm, model_input)
        settings["tokenizer"] = {
            "name": tokenizer.name,
            "sha256": tokenizer.digest,
            "special_tokens": model_input.special_tokens,
            "special_token_ids": model_input.metadata["special_token_ids"],
        }
        config = encoder_config(plm).to_dict()
        config.pop("_name_or_path", None)
        texts = {TOKENIZER: tokenizer.definition, PLM_CONFIG: json.dumps(config, indent=1)}
    vocabularies = [vocabulary.as_dict() for vocabulary in model_input.vocabularies]
    texts[VOCABULARIES] = json.dumps(vocabularies, ensure_ascii=False)
    texts[SETTINGS] = json.dumps(settings, indent=1, ensure_ascii=False)

    def write(aside: Path) -> None:
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        save_tensors(aside / WEIGHTS, load_tensors(trained.weights_path))
        if model_input.bags:
            bags = {str(n): torch.from_numpy(np.array(b)) for n, b in model_input.bags.items()}
            save_tensors(aside / BAGS, bags)

    write_folder(Path(folder), write)
    return Path(folder)


def bundle_digest(folder: Path) -> str:
    """sha256 of the manifest: of everything in the bundle."""
    return file_digest(folder / MANIFEST)


def _tokenizer(plm: PLMParameters, model_input: ModelInput) -> PieceTokenizer:
    special = model_input.special_tokens
    tokenizer = PieceTokenizer.of(load_tokenizer(plm), causal=special["sep"] is None)
    known = model_input.metadata["tokenizer"]
    if tokenizer.digest != known["sha256"]:
        raise ValueError(
            f"the tokenizer of {plm.source} must be the one of the model input "
            f"({known['sha256'][:12]}), got {tokenizer.digest[:12]}"
        )
    return tokenizer


def _unseen_shares(model_input: ModelInput) -> dict[str, dict[str, float]]:
    """Column -> split -> share of rows whose id is out-of-vocabulary: what is normal."""
    shares: dict[str, dict[str, float]] = {}
    for number, vocabulary in enumerate(model_input.vocabularies):
        known = None
        if number in model_input.bags:
            known = model_input.bags[number][:, 0] == 0
        of_field = {}
        for split in ("train", "valid", "test"):
            ids = np.asarray(model_input.ids[model_input.rows(split), number])
            unseen = ids == 0 if known is None else known[ids]
            of_field[split] = float(unseen.mean())
        shares[vocabulary.field.column] = of_field
    return shares


def _check_format(folder: Path) -> None:
    try:
        found: Mapping[str, Any] = json.loads((folder / SETTINGS).read_text("utf-8"))
        version = str(found["format"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(
            f"a bundle must be as it was written, got {folder / SETTINGS} that cannot be read"
        ) from None
    if version.partition(".")[0] != FORMAT.partition(".")[0]:
        raise BundleError(
            f"{folder} must be a bundle of version {FORMAT.partition('.')[0]}.x, got {version}: "
            f"write it again with this version of clickprompt, or score with the one that wrote it"
        )
