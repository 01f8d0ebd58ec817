"""Raw rows -> probabilities, by a bundle alone.

Letters: B rows, F fields, N tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from clickprompt.modality import TextBatcher
from clickprompt.modality.raw_rows import ConvertedRows, RowConverter
from clickprompt.plm.observation import PromptShares
from clickprompt.serving.bundle import Bundle
from clickprompt.training.machine import has_bf16
from clickprompt.training.objectives import TOKEN_MULTIPLE, probabilities, to_device

Precision = Literal["float32", "bf16"]


@dataclass
class Health:
    """What was scored: rows, and for each column cells that no train row knew, or without a value.

    An out-of-vocabulary cell has no embedding of its own; a missing one is out-of-vocabulary too,
    unless train rows had missing values.
    """

    columns: tuple[str, ...]
    rows: int = 0
    not_scored: int = 0
    unseen: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, columns: tuple[str, ...], converted: ConvertedRows) -> Health:
        """That of some rows."""
        return cls(
            columns,
            rows=len(converted.reasons),
            not_scored=sum(reason is not None for reason in converted.reasons),
            unseen=converted.unseen.sum(axis=0).tolist(),
            missing=converted.missing.sum(axis=0).tolist(),
        )

    def add(self, other: Health) -> None:
        """Count the rows of another one, too."""
        self.rows += other.rows
        self.not_scored += other.not_scored
        for name in ("unseen", "missing"):
            found = getattr(other, name)
            before = getattr(self, name) or [0] * len(found)
            setattr(self, name, [one + two for one, two in zip(before, found, strict=True)])

    def report(self, expected: dict[str, dict[str, float]]) -> dict[str, Any]:
        """Shares by column, beside those of the train and test rows.

        Args:
            expected: of the bundle: column -> split -> share of out-of-vocabulary cells.
        """
        rows = max(self.rows, 1)
        fields = {}
        for number, column in enumerate(self.columns):
            normal = expected[column]
            share = self.unseen[number] / rows if self.unseen else 0.0
            fields[column] = {
                "out_of_vocabulary": share,
                "missing": self.missing[number] / rows if self.missing else 0.0,
                "out_of_vocabulary_in_train": normal["train"],
                "out_of_vocabulary_in_test": normal["test"],
                "drift": share - normal["test"],
            }
        return {"rows": self.rows, "not_scored": self.not_scored, "fields": fields}


@dataclass(frozen=True)
class Scored:
    """Answers in the order of the rows.

    - ``probability`` (rows,) float64: of a click, NaN where the row cannot be scored;
    - ``reasons`` (rows,): why not, None where it was;
    - ``health``: of these rows.
    """

    probability: np.ndarray
    reasons: list[str | None]
    health: Health

    def frame(self) -> pd.DataFrame:
        """``probability`` and ``reason``."""
        return pd.DataFrame(
            {"probability": self.probability, "reason": pd.Series(self.reasons, dtype="object")}
        )


class Scorer:
    """Scores raw rows with the model of a bundle; several threads may call it.

    Args:
        folder: the bundle.
        precision: of the matrix products; float32 gives the offline predictions of a float32
            training.
        device: where it computes.
        batch_rows: rows of a step.

    Raises:
        BundleError: see `Bundle.open`.
        ValueError: bf16 on a device that does not compute it natively.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: Precision = "float32",
        device: str = "cpu",
        batch_rows: int = 1024,
    ) -> None:
        self.device = torch.device(device)
        if precision == "bf16" and not has_bf16(self.device):
            raise ValueError(
                f"precision 'bf16' needs a device that computes it natively, got {device}"
            )
        self.bundle = Bundle.open(folder)
        self.precision = precision
        self.batch_rows = batch_rows
        self.model: Any = self.bundle.build().to(self.device)
        self.converter = RowConverter(
            vocabularies=self.bundle.vocabularies,
            data=self.bundle.data,
            tokenizer=self.bundle.tokenizer,
            max_tokens=self.bundle.max_tokens,
        )
        # Torch spreads one batch over all threads: a second one beside it would only wait longer.
        # It also guards the bags, which are those of the rows that are being scored.
        self._lock = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read from raw rows; any of them may be missing."""
        return self.converter.columns

    def score(self, rows: pd.DataFrame | Sequence[Any]) -> Scored:
        """Probabilities of raw rows.

        Args:
            rows: a table, or one mapping from column to value a row.

        Raises:
            ValueError: the rows have no column that a field names.
        """
        if not len(rows):
            return Scored(np.zeros(0), [], Health(self.columns))
        converted = self.converter.convert(rows)
        health = Health.of(self.columns, converted)
        bad = np.array([reason is not None for reason in converted.reasons])
        probability = probabilities(self.logits(converted))
        return Scored(np.where(bad, np.nan, probability), converted.reasons, health)

    def logits(self, converted: ConvertedRows) -> np.ndarray:
        """Logits (rows,) float64 of rows that are converted already."""
        order = np.arange(len(converted.ids))
        if converted.texts is not None:  # similar lengths together, as in training's evaluation
            order = np.argsort(converted.texts.lengths(), kind="stable")
        logits = np.empty(len(order), dtype=np.float64)
        with self._lock, torch.inference_mode(), self._autocast():
            if converted.bags:
                self.model.ctr.embedding.set_bags(converted.bags)
            for start in range(0, len(order), self.batch_rows):
                chosen = order[start : start + self.batch_rows]
                logit_B = self.model(*self._inputs(converted, chosen))
                logits[chosen] = logit_B.double().cpu().numpy()
        return logits

    def prompt_attention(self, rows: Sequence[Any]) -> np.ndarray:
        """Share of the text's attention that each prompt gets, by layer.

        Args:
            rows: mappings from column to value.

        Returns:
            (rows, L, K), a mean over the text's tokens and the heads.

        Raises:
            ValueError: the model has no prompts.
        """
        generator = getattr(self.model, "generator", None)
        if generator is None:
            raise ValueError(f"the model must have prompts, got {self.bundle.stage!r} without")
        converted = self.converter.convert(rows)
        found: dict[int, np.ndarray] = {}

        with self._lock, torch.inference_mode(), self._autocast():
            if converted.bags:
                self.model.ctr.embedding.set_bags(converted.bags)
            x_id_BF, token_ids_BN, mask_BN = self._inputs(converted, np.arange(len(rows)))
            weight_BN = torch.ones_like(token_ids_BN) if mask_BN is None else mask_BN
            weight_BN1 = (weight_BN / weight_BN.sum(dim=1, keepdim=True))[..., None]

            def add(shares: PromptShares) -> None:
                share_BNK = shares.share_BNAK.mean(dim=2)
                found[shares.layer] = (share_BNK * weight_BN1).sum(dim=1).float().cpu().numpy()

            written = generator(self.model.ctr.representation(x_id_BF))
            self.model.encoder(token_ids_BN, mask_BN, written, observe=add)
        return np.stack([found[layer] for layer in sorted(found)], axis=1)

    def texts(self, rows: Sequence[Any]) -> list[str]:
        """What the language model reads of these rows; also of a model that has none."""
        converted = self.converter.convert(rows, sentences=True)
        return [converted.sentence(row) for row in range(len(rows))]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    def _inputs(self, converted: ConvertedRows, chosen: np.ndarray) -> tuple[Any, ...]:
        """What the model's forward takes."""
        x_id_BF = to_device(converted.ids[chosen], self.device)
        if converted.texts is None:
            return (x_id_BF,)
        token_ids_BN, length_B = TextBatcher(converted.texts).tokens(chosen, TOKEN_MULTIPLE)
        width = token_ids_BN.shape[1]
        mask_BN = None
        if int(length_B.min()) < width:
            mask_BN = to_device(np.arange(width) < length_B[:, None], self.device)
        return x_id_BF, to_device(token_ids_BN, self.device), mask_BN
