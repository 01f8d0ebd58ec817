"""What a stage minimises and how it is judged: clicks, masked tokens, or next tokens.

An objective turns row numbers into a ``Batch``, a part of a batch into (loss sum, count),
and the valid split into metrics. It knows nothing of optimiser, files or progress.

Letters: B batch, F fields, N text tokens, S selected tokens, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.modality import (
    ModelInput,
    TextBatcher,
    mask_ids,
    mask_tokens,
    shuffled_batches,
)
from clickprompt.models.clickprompt import MaskedIds, PromptUse
from clickprompt.parameters import MaskedIdParameters, MaskingParameters
from clickprompt.training.cross_entropy import cross_entropy_sum
from clickprompt.training.machine import Machine

Split = Literal["train", "valid", "test"]

# Texts are padded to a multiple of this many tokens: few distinct shapes keep the
# allocator's memory bounded, at under 3 % of padding.
TOKEN_MULTIPLE = 2

# Selected tokens are filled up to a multiple of this many with ones that count for nothing:
# a matrix product of a new shape has to be planned anew, and its plan is kept in memory.
SELECTED_MULTIPLE = 64
IGNORED = -100  # target of those; what torch's cross entropy leaves out


# Masks of the valid split follow from a position that training never has.
VALIDATION_EPOCH = 2**31 - 1


@dataclass(frozen=True)
class Batch:
    """Arrays of one optimiser step, or of a part of it.

    Attributes:
        x_id_BF: local ids.
        label_B: 0 or 1.
        token_ids_BN: text, masked where PA-MLM selected; None without a PLM.
        length_B: tokens of each row, padding not counted; None without a PLM.
        item_ids_BN: text of the item, where it is apart from that of the user (``token_ids_BN``).
        item_length_B: its tokens.
        piece_BF: number of each field's piece of text, where a model asks for it.
        row_S: batch row of each selected token; None outside pretraining.
        column_S: the position where it is predicted: its own (PA-MLM), the one before (PA-CLM).
        target_S: column of the right token in the softmax, or ``IGNORED``.
        whole_ids_BN: the text with nothing masked, where masked IDs are restored from it.
        masked_BF: local ids, some of them masked.
        row_I: batch row of each masked ID.
        field_I: its field.
        target_I: its place among the candidates.
        weight_I: of its loss, so that the sum over the batch is in proportion to the tokens'.
        candidate_C: rows of the embedding table that the masked IDs are sought among.
        candidate_field_C: their fields.
    """

    x_id_BF: np.ndarray
    label_B: np.ndarray
    token_ids_BN: np.ndarray | None = None
    length_B: np.ndarray | None = None
    item_ids_BN: np.ndarray | None = None
    item_length_B: np.ndarray | None = None
    piece_BF: np.ndarray | None = None
    row_S: np.ndarray | None = None
    column_S: np.ndarray | None = None
    target_S: np.ndarray | None = None
    whole_ids_BN: np.ndarray | None = None
    masked_BF: np.ndarray | None = None
    row_I: np.ndarray | None = None
    field_I: np.ndarray | None = None
    target_I: np.ndarray | None = None
    weight_I: np.ndarray | None = None
    candidate_C: np.ndarray | None = None
    candidate_field_C: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label_B)

    def part(self, number: int, parts: int) -> Batch:
        """Rows of part ``number`` of ``parts`` nearly equal ones, selected tokens included.

        Columns that are padding in the whole part are cut off.
        """
        if parts == 1:
            return self
        edges = np.linspace(0, len(self), parts + 1).round().astype(int)
        start, stop = int(edges[number]), int(edges[number + 1])
        chosen: dict[str, Any] = {
            name: array if array is None or name.endswith("_C") else array[start:stop]
            for name, array in vars(self).items()
            if not name.endswith(("_S", "_I"))
        }
        if self.row_S is not None and self.column_S is not None and self.target_S is not None:
            inside_S = (self.row_S >= start) & (self.row_S < stop)
            chosen["row_S"] = self.row_S[inside_S] - start
            chosen["column_S"] = self.column_S[inside_S]
            chosen["target_S"] = self.target_S[inside_S]
        if self.row_I is not None:
            inside_I = (self.row_I >= start) & (self.row_I < stop)
            for name in ("row_I", "field_I", "target_I", "weight_I"):
                chosen[name] = getattr(self, name)[inside_I]
            chosen["row_I"] = chosen["row_I"] - start
        for text, length in (
            ("token_ids_BN", "length_B"),
            ("whole_ids_BN", "length_B"),
            ("item_ids_BN", "item_length_B"),
        ):
            if chosen[text] is not None and chosen[length] is not None:
                longest = int(chosen[length].max(initial=1))
                width = -(-longest // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
                chosen[text] = chosen[text][:, :width]
        return Batch(**chosen)


class Objective(Protocol):
    """What the training loop asks of an objective."""

    criterion: str | None
    """Valid metric whose largest value is the best epoch; None keeps the last epoch."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Train rows of each step of an epoch."""

    def prepare(self, rows: np.ndarray, epoch: int, step: int) -> Batch:
        """Arrays of one step, the same on every process and for every accumulation."""

    def count(self, batch: Batch) -> int:
        """Items that the loss is a mean over."""

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum of the loss over the items of a batch."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on the valid split."""


class ClickObjective:
    """Binary cross entropy of the click, with or without the PLM.

    See the sections 6 and 7 of docs/method.md.

    Args:
        model_input: both views of the samples.
        machine: device and precision.
        batch_size: rows per step.
        evaluation_batch_size: rows per step without gradients.
        seed: of the batch order.
        text: whether the model reads the text view.
    """

    criterion: str | None = "valid_auc"

    def __init__(
        self,
        *,
        model_input: ModelInput,
        machine: Machine,
        batch_size: int,
        evaluation_batch_size: int,
        seed: int,
        text: bool,
    ) -> None:
        self._input = model_input
        # As plain arrays: numpy's own class for mapped files takes longer than reading the rows.
        self._ids, self._labels = (
            a.view(np.ndarray) for a in (model_input.ids, model_input.labels)
        )
        self._machine = machine
        self._batch_size = batch_size
        self._evaluation_batch_size = evaluation_batch_size
        self._seed = seed
        self._text = TextBatcher(model_input) if text else None
        self._lengths = model_input.text_lengths() if text else None

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Shuffled train rows."""
        train = self._input.rows("train")
        rows = np.arange(train.start, train.stop)
        return shuffled_batches(rows, self._batch_size, self._seed, epoch, self._lengths)

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        """Ids, labels and, with a PLM, the unmasked text of these rows."""
        ids, label_B = self._ids[rows], self._labels[rows]
        if self._text is None:
            return Batch(x_id_BF=ids, label_B=label_B)
        token_ids_BN, length_B = self._text.tokens(rows, multiple_of=TOKEN_MULTIPLE)
        return Batch(x_id_BF=ids, label_B=label_B, token_ids_BN=token_ids_BN, length_B=length_B)

    def count(self, batch: Batch) -> int:
        """Rows."""
        return len(batch)

    def logits(self, model: nn.Module, batch: Batch, prompts: PromptUse = "on") -> Tensor:
        """Logits (B,) of a batch; ``prompts`` matters with a PLM only."""
        device = self._machine.device
        x_id_BF = to_device(batch.x_id_BF, device)
        if batch.token_ids_BN is None:
            return model(x_id_BF)
        token_ids_BN = to_device(batch.token_ids_BN, device)
        return model(x_id_BF, token_ids_BN, text_mask(batch, device), prompts=prompts)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed binary cross entropy."""
        with self._machine.autocast():
            logit_B = self.logits(model, batch)
        label_B = to_device(batch.label_B, self._machine.device).to(logit_B.dtype)
        return functional.binary_cross_entropy_with_logits(logit_B, label_B, reduction="sum")

    @torch.no_grad()
    def predict(self, model: nn.Module, split: Split) -> np.ndarray:
        """Probabilities (rows,) of a split in its own order, float64."""
        model.eval()
        part = self._input.rows(split)
        rows = np.arange(part.start, part.stop)
        if self._lengths is not None:  # similar lengths together, put back below
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
        logits = np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), self._evaluation_batch_size):
            chosen = rows[start : start + self._evaluation_batch_size]
            with self._machine.autocast():
                logit_B = self.logits(model, self.prepare(chosen))
            logits[chosen - part.start] = logit_B.double().cpu().numpy()
        return probabilities(logits)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """AUC and LogLoss on valid."""
        labels = self._input.labels[self._input.rows("valid")]
        probability = self.predict(model, "valid")
        return {
            "valid_auc": auc(labels, probability),
            "valid_log_loss": log_loss(labels, probability),
        }


class TokenObjective(ABC):
    """What PA-MLM and PA-CLM share: cross entropy of some tokens of the text, with prompts.

    A subclass says which tokens of a text these are.

    Args:
        model_input: both views of the samples.
        machine: device and precision.
        masking: shares and vocabulary.
        batch_size: rows per step.
        evaluation_batch_size: rows per step without gradients.
        seed: of batch order and masks.
        validation_rows: valid rows that are measured; None measures all.
        splits: whose rows are trained on.
        measured: prompts with which the valid split is measured; ``off`` alone where the model has
            none, since with them the others would be the same numbers.
        masked_ids: the text restores masked IDs as well; None: it does not.

    Raises:
        ValueError: PA-MLM with a model input of a causal model, which has no mask token.
    """

    criterion: str | None = None
    task: Literal["mlm", "clm"]
    """In the names of the metrics."""

    def __init__(
        self,
        *,
        model_input: ModelInput,
        machine: Machine,
        masking: MaskingParameters,
        batch_size: int,
        evaluation_batch_size: int,
        seed: int,
        validation_rows: int | None = None,
        splits: Literal["train", "train_and_valid"] = "train",
        measured: tuple[PromptUse, ...] = ("on", "off", "shuffled"),
        masked_ids: MaskedIdParameters | None = None,
    ) -> None:
        self._input = model_input
        # As plain arrays: numpy's own class for mapped files takes longer than reading the rows.
        self._ids, self._labels = (
            a.view(np.ndarray) for a in (model_input.ids, model_input.labels)
        )
        self._machine = machine
        self._masking = masking
        self._batch_size = batch_size
        self._evaluation_batch_size = evaluation_batch_size
        self._seed = seed
        self._validation_rows = validation_rows
        self._last: Split = "train" if splits == "train" else "valid"
        self._measured = measured
        self._masked_ids = masked_ids
        sizes = np.asarray(model_input.field_sizes)
        self._field_ends = np.cumsum(sizes)
        # A bag has no row of its own that could be restored.
        self._restored = [f for f in range(len(sizes)) if f not in model_input.bags]
        self._text = TextBatcher(model_input)
        if self.task == "mlm" and self._text.mask_id is None:
            raise ValueError(
                f"the model input of PA-MLM must have a mask token, got none in "
                f"{model_input.folder}: run the pipeline modality_conversion again"
            )
        self._lengths = model_input.text_lengths()
        self._active = np.asarray(model_input.active_tokens, dtype=np.int64)
        self._allowed = self._active if masking.vocabulary == "active" else None
        self._column_of_token: np.ndarray | None = None
        self._vocabulary_V: Tensor | None = None
        if self._allowed is not None:
            self._column_of_token = np.full(int(self._active.max()) + 1, -1, dtype=np.int64)
            self._column_of_token[self._active] = np.arange(len(self._active))
            self._vocabulary_V = torch.from_numpy(self._active).to(machine.device)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Shuffled train rows, those of valid among them where they are trained on."""
        rows = np.arange(self._input.rows("train").start, self._input.rows(self._last).stop)
        return shuffled_batches(rows, self._batch_size, self._seed, epoch, self._lengths)

    def prepare(self, rows: np.ndarray, epoch: int, step: int) -> Batch:
        """Ids (never corrupted), text, and the tokens that are predicted, with fillers."""
        token_ids_BN, length_B = self._text.tokens(rows, multiple_of=TOKEN_MULTIPLE)
        given_BN, row_S, column_S, target_S = self._select(token_ids_BN, length_B, epoch, step)
        if self._column_of_token is not None:
            target_S = self._column_of_token[target_S]
        more = -len(target_S) % SELECTED_MULTIPLE
        row_S = np.append(row_S, np.arange(more) % len(rows))
        column_S = np.append(column_S, np.zeros(more, dtype=np.int64))
        target_S = np.append(target_S, np.full(more, IGNORED))
        batch = Batch(
            x_id_BF=self._ids[rows],
            label_B=self._labels[rows],
            token_ids_BN=given_BN,
            length_B=length_B,
            row_S=row_S,
            column_S=column_S,
            target_S=target_S,
        )
        if self._masked_ids is None:
            return batch
        return replace(batch, whole_ids_BN=token_ids_BN, **self._hide_ids(batch, epoch, step))

    def _hide_ids(self, batch: Batch, epoch: int, step: int) -> dict[str, np.ndarray]:
        """Mask some IDs; the candidates are all IDs of the batch, each sought in its own field."""
        assert self._masked_ids is not None
        masked_BF, row_I, field_I = mask_ids(
            batch.x_id_BF,
            self._restored,
            share=self._masked_ids.share,
            seed=self._seed,
            epoch=epoch,
            step=step,
        )
        first_F = self._field_ends - np.asarray(self._input.field_sizes)
        known_BF = batch.x_id_BF[:, self._restored]
        table_BF = known_BF.astype(np.int64) + first_F[self._restored]
        candidate_C = np.unique(table_BF[known_BF > 0])
        true_I = batch.x_id_BF[row_I, field_I] + first_F[field_I]
        weight = self._masked_ids.weight * self.count(batch) / max(len(row_I), 1)
        return {
            "masked_BF": masked_BF,
            "row_I": row_I,
            "field_I": field_I,
            "target_I": np.searchsorted(candidate_C, true_I),
            "weight_I": np.full(len(row_I), weight, dtype=np.float32),
            "candidate_C": candidate_C,
            "candidate_field_C": np.searchsorted(self._field_ends, candidate_C, side="right"),
        }

    @abstractmethod
    def _select(
        self, token_ids_BN: np.ndarray, length_B: np.ndarray, epoch: int, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the PLM is given (B, N); row and column where it predicts (S,); true tokens (S,)."""

    def count(self, batch: Batch) -> int:
        """Selected tokens."""
        assert batch.target_S is not None
        return int((batch.target_S != IGNORED).sum())

    def logits(self, model: nn.Module, batch: Batch, prompts: PromptUse = "on") -> Tensor:
        """Logits (S, V) of the selected tokens."""
        device = self._machine.device
        assert batch.token_ids_BN is not None
        assert batch.row_S is not None
        assert batch.column_S is not None
        return model(
            to_device(batch.x_id_BF, device),
            to_device(batch.token_ids_BN, device),
            text_mask(batch, device),
            to_device(batch.row_S, device),
            to_device(batch.column_S, device),
            self._vocabulary_V,
            prompts=prompts,
        )

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed cross entropy of the selected tokens, and in proportion that of masked IDs."""
        device = self._machine.device
        with self._machine.autocast():
            if batch.row_I is None:
                logit_SV, score_IC = self.logits(model, batch), None
            else:
                logit_SV, score_IC = self._both(model, batch)
        assert batch.target_S is not None
        loss = cross_entropy_sum(logit_SV, to_device(batch.target_S, device), IGNORED)
        if score_IC is None:
            return loss
        assert batch.target_I is not None
        assert batch.weight_I is not None
        of_ids_I = functional.cross_entropy(
            score_IC, to_device(batch.target_I, device), reduction="none"
        )
        return loss + (of_ids_I * to_device(batch.weight_I, device)).sum()

    def _both(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (S, V) of the selected tokens and scores (I, C) of the masked IDs' candidates."""
        device = self._machine.device
        names = ("token_ids_BN", "row_S", "column_S")
        names_of_ids = (
            "masked_BF", "whole_ids_BN", "row_I", "field_I", "candidate_C", "candidate_field_C",
        )  # fmt: skip
        token_ids_BN, row_S, column_S = (to_device(getattr(batch, n), device) for n in names)
        logit_SV, score_IC = model(
            to_device(batch.x_id_BF, device),
            token_ids_BN,
            text_mask(batch, device),
            row_S,
            column_S,
            self._vocabulary_V,
            masked_ids=MaskedIds(*(to_device(getattr(batch, n), device) for n in names_of_ids)),
        )
        return logit_SV, score_IC

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss and accuracy on valid with prompts on, off and shuffled between rows.

        The masks of PA-MLM are the same in every epoch and for the three; rows whose text has no
        token of the vocabulary are left out.
        """
        model.eval()
        sums: dict[PromptUse, float] = dict.fromkeys(self._measured, 0.0)
        hits = dict.fromkeys(sums, 0)
        count = 0
        id_loss, id_hits, id_count = 0.0, 0, 0
        for step, rows in enumerate(self._validation_batches()):
            batch = self.prepare(rows, epoch=VALIDATION_EPOCH, step=step)
            assert batch.target_S is not None
            if not self.count(batch):
                continue
            count += self.count(batch)
            target_S = to_device(batch.target_S, self._machine.device)
            for prompts in sums:
                with self._machine.autocast():
                    logit_SV = self.logits(model, batch, prompts)
                sums[prompts] += float(cross_entropy_sum(logit_SV, target_S, IGNORED))
                hits[prompts] += int((logit_SV.argmax(dim=1) == target_S).sum())
            if batch.target_I is not None:
                with self._machine.autocast():
                    _, score_IC = self._both(model, batch)
                target_I = to_device(batch.target_I, self._machine.device)
                id_loss += float(functional.cross_entropy(score_IC, target_I, reduction="sum"))
                id_hits += int((score_IC.argmax(dim=1) == target_I).sum())
                id_count += len(target_I)
        of_ids = {}
        if self._masked_ids is not None:
            of_ids = {
                "valid_masked_id_loss": id_loss / max(id_count, 1),
                "valid_masked_id_accuracy": id_hits / max(id_count, 1),
            }
        return of_ids | {
            f"valid_{self.task}_{name}_prompts_{prompts}": value / max(count, 1)
            for prompts in sums
            for name, value in (("loss", sums[prompts]), ("accuracy", hits[prompts]))
        }

    def _validation_batches(self) -> Iterator[np.ndarray]:
        """Valid rows in a fixed order that mixes users, so that a shuffle is one."""
        part = self._input.rows("valid")
        rows = np.random.Generator(np.random.Philox(0)).permutation(
            np.arange(part.start, part.stop)
        )[: self._validation_rows]
        # Not more rows than in training: the logits of all selected tokens take the most memory.
        size = min(self._evaluation_batch_size, self._batch_size)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            yield batch[np.argsort(self._lengths[batch], kind="stable")]


class MaskedTokenObjective(TokenObjective):
    """PA-MLM: restore the masked tokens with the prompts' help (section 5 of docs/method.md).

    Args:
        model_input: both views of the samples.
        machine: device and precision.
        masking: shares and vocabulary.
        batch_size: rows per step.
        evaluation_batch_size: rows per step without gradients.
        seed: of batch order and masks.
        validation_rows: valid rows that are measured; None measures all.

    Raises:
        ValueError: the model input is that of a causal model, which has no mask token.
    """

    task: Literal["mlm", "clm"] = "mlm"

    def _select(
        self, token_ids_BN: np.ndarray, length_B: np.ndarray, epoch: int, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Masks are new for every epoch and step."""
        assert self._text.mask_id is not None
        return mask_tokens(
            token_ids_BN,
            self._text.maskable(token_ids_BN, length_B),
            self._masking,
            mask_id=self._text.mask_id,
            random_tokens=self._active,
            allowed_tokens=self._allowed,
            seed=self._seed,
            epoch=epoch,
            step=step,
        )


class NextTokenObjective(TokenObjective):
    """PA-CLM: a causal PLM predicts each token from those before it and the prompts.

    The paper's appendix; section 5 of docs/method.md. Every text token is a target: the first one
    is predicted from the token that begins the text. Special tokens and padding never are. Nothing
    is masked, so of ``masking`` only ``vocabulary`` acts: ``active`` leaves tokens that no train
    text has out of targets and softmax.

    Args:
        model_input: both views of the samples.
        machine: device and precision.
        masking: vocabulary.
        batch_size: rows per step.
        evaluation_batch_size: rows per step without gradients.
        seed: of the batch order.
        validation_rows: valid rows that are measured; None measures all.
    """

    task: Literal["mlm", "clm"] = "clm"

    def _select(
        self, token_ids_BN: np.ndarray, length_B: np.ndarray, epoch: int, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The same for every epoch and step."""
        target_BN = self._text.maskable(token_ids_BN, length_B)
        if self._allowed is not None:
            target_BN &= np.isin(token_ids_BN, self._allowed)
        row_S, column_S = np.nonzero(target_BN)
        return token_ids_BN, row_S, column_S - 1, token_ids_BN[row_S, column_S]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The one sigmoid of the project, in float64."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor of the array on the device."""
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).to(device, non_blocking=True)


def text_mask(batch: Batch, device: torch.device) -> Tensor | None:
    """True on text, False on padding (B, N); None when no row is padded."""
    assert batch.token_ids_BN is not None
    assert batch.length_B is not None
    width = batch.token_ids_BN.shape[1]
    if int(batch.length_B.min()) == width:
        return None
    return to_device(np.arange(width) < batch.length_B[:, None], device)
