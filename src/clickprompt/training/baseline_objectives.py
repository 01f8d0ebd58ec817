"""Objectives of the baselines: the click read from text alone, by two towers, by vectors of pieces,
or from a teacher; and the alignment of ids and texts.

Letters: B batch, U distinct texts, F fields, N text tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.baselines import CTRBert, info_nce
from clickprompt.modality import ModelInput, TextBatcher, shuffled_batches
from clickprompt.models.clickprompt import PromptUse
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import (
    TOKEN_MULTIPLE,
    Batch,
    ClickObjective,
    Split,
    probabilities,
    text_mask,
    to_device,
)


class TextClickObjective(ClickObjective):
    """Clicks from the text alone (PTab)."""

    def logits(self, model: nn.Module, batch: Batch, prompts: PromptUse = "on") -> Tensor:
        """Logits (B,) of a batch."""
        assert batch.token_ids_BN is not None
        device = self._machine.device
        logit_B: Tensor = model(to_device(batch.token_ids_BN, device), text_mask(batch, device))
        return logit_B


class QuestionClickObjective(TextClickObjective):
    """Clicks as the answer to a question that stands after the text (P5).

    Args:
        question: its token ids.
        settings: of `ClickObjective`.
    """

    def __init__(self, *, question: Sequence[int], **settings: Any) -> None:
        super().__init__(**settings, text=True)
        self._question_Q = np.asarray(question, dtype=np.int64)
        end_id, pad_id = (self._input.special_tokens[name] for name in ("sep", "pad"))
        assert end_id is not None
        assert pad_id is not None
        self._end, self._pad = end_id, pad_id

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        """Ids, labels, and the text with the question before its last token."""
        batch = super().prepare(rows)
        assert batch.token_ids_BN is not None
        assert batch.length_B is not None
        more = len(self._question_Q)
        row_B1 = np.arange(len(batch))[:, None]
        begin_B1 = batch.length_B[:, None] - 1
        asked_BN = np.pad(batch.token_ids_BN, ((0, 0), (0, more)), constant_values=self._pad)
        asked_BN[row_B1, begin_B1 + np.arange(more)] = self._question_Q
        asked_BN[row_B1, begin_B1 + more] = self._end
        return replace(batch, token_ids_BN=asked_BN, length_B=batch.length_B + more)


class PieceClickObjective(ClickObjective):
    """Clicks from ids and the numbers of the texts' pieces (frozen vectors of texts)."""

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        """Ids, labels and pieces of these rows."""
        return Batch(
            x_id_BF=self._ids[rows],
            label_B=self._labels[rows],
            piece_BF=np.asarray(self._input.pieces[rows]),
        )

    def logits(self, model: nn.Module, batch: Batch, prompts: PromptUse = "on") -> Tensor:
        """Logits (B,) of a batch."""
        assert batch.piece_BF is not None
        device = self._machine.device
        logit_B: Tensor = model(to_device(batch.x_id_BF, device), to_device(batch.piece_BF, device))
        return logit_B


class DistilledClickObjective(ClickObjective):
    """Clicks, partly as a teacher sees them: the target is (1 - weight) label + weight p_teacher.

    Binary cross entropy is linear in its target, so this is the weighted sum of the entropy of the
    label and that of the teacher's probability.

    Args:
        teacher: its probabilities of the train rows, in their order.
        weight: of the teacher, in 0..1.
        settings: of `ClickObjective`.
    """

    def __init__(self, *, teacher: np.ndarray, weight: float, **settings: Any) -> None:
        super().__init__(**settings)
        train = self._input.rows("train")
        label_R = self._labels[train.start : train.stop].astype(np.float32)
        self._targets = self._labels.astype(np.float32)
        self._targets[train.start : train.stop] = (1 - weight) * label_R + weight * teacher

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        """Ids and targets of these rows; those of valid and test are labels."""
        return Batch(x_id_BF=self._ids[rows], label_B=self._targets[rows])


class TwoTowerClickObjective(ClickObjective):
    """Clicks from a user's text and an item's (CTR-BERT).

    A text that several rows of a batch have is read once, and it then has one dropout mask.

    Args:
        user_fields: positions of the fields of the user's text; the others are the item's.
        settings: of `ClickObjective`.
    """

    def __init__(self, *, user_fields: Sequence[int], **settings: Any) -> None:
        super().__init__(**settings, text=False)
        fields = range(self._input.ids.shape[1])
        self._user = TextBatcher(self._input, user_fields)
        self._item = TextBatcher(self._input, [f for f in fields if f not in set(user_fields)])

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        """Ids, labels and both texts of these rows."""
        user_ids_BN, user_length_B = self._user.tokens(rows, multiple_of=TOKEN_MULTIPLE)
        item_ids_BN, item_length_B = self._item.tokens(rows, multiple_of=TOKEN_MULTIPLE)
        return Batch(
            x_id_BF=self._ids[rows],
            label_B=self._labels[rows],
            token_ids_BN=user_ids_BN,
            length_B=user_length_B,
            item_ids_BN=item_ids_BN,
            item_length_B=item_length_B,
        )

    def logits(self, model: nn.Module, batch: Batch, prompts: PromptUse = "on") -> Tensor:
        """Logits (B,) of a batch."""
        device = self._machine.device
        assert batch.token_ids_BN is not None
        assert batch.length_B is not None
        assert batch.item_ids_BN is not None
        assert batch.item_length_B is not None
        logit_B: Tensor = model(
            to_device(batch.x_id_BF, device),
            *_distinct(batch.token_ids_BN, batch.length_B, device),
            *_distinct(batch.item_ids_BN, batch.item_length_B, device),
        )
        return logit_B

    @torch.no_grad()
    def predict(self, model: nn.Module, split: Split) -> np.ndarray:
        """Probabilities (rows,) of a split in its own order, float64.

        As in serving: the vectors of all users and items of the split first, each text once, then
        the head over the rows.
        """
        assert isinstance(model, CTRBert)
        model.eval()
        part = self._input.rows(split)
        rows = np.arange(part.start, part.stop)
        user_UH, user_R = self._vectors(model.user_vectors, self._user, rows)
        item_UH, item_R = self._vectors(model.item_vectors, self._item, rows)
        logits = np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), self._evaluation_batch_size):
            chosen = slice(start, start + self._evaluation_batch_size)
            with self._machine.autocast():
                logit_B = model.join(
                    to_device(self._ids[rows[chosen]], self._machine.device),
                    user_UH[user_R[chosen]],
                    item_UH[item_R[chosen]],
                )
            logits[chosen] = logit_B.double().cpu().numpy()
        return probabilities(logits)

    def _vectors(
        self, encode: Callable[[Tensor, Tensor | None], Tensor], text: TextBatcher, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Vectors of the distinct texts of these rows (U, H), and which of them a row has."""
        device = self._machine.device
        _, first_U, number_R = np.unique(
            text.pieces(rows), axis=0, return_index=True, return_inverse=True
        )
        token_ids_UN, length_U = text.tokens(rows[first_U])
        order_U = np.argsort(length_U, kind="stable")
        found = []
        for start in range(0, len(order_U), self._evaluation_batch_size):
            chosen = order_U[start : start + self._evaluation_batch_size]
            width = int(length_U[chosen].max())
            mask_UN = np.arange(width) < length_U[chosen][:, None]
            with self._machine.autocast():
                vector_UH = encode(
                    to_device(np.ascontiguousarray(token_ids_UN[chosen, :width]), device),
                    None if mask_UN.all() else to_device(mask_UN, device),
                )
            found.append(vector_UH.float())
        place_U = np.empty(len(order_U), dtype=np.int64)
        place_U[order_U] = np.arange(len(order_U))
        return torch.cat(found), to_device(place_U[number_R.reshape(-1)], device)


class AlignmentObjective:
    """Ids and texts of the same row find each other among a batch (CTRL).

    Args:
        model_input: both views of the samples.
        machine: device and precision.
        batch_size: rows per step, hence of the negatives.
        temperature: of InfoNCE.
        seed: of the batch order.
        validation_rows: valid rows that are measured; None measures all.
    """

    criterion: str | None = None

    def __init__(
        self,
        *,
        model_input: ModelInput,
        machine: Machine,
        batch_size: int,
        temperature: float,
        seed: int,
        validation_rows: int | None = None,
    ) -> None:
        self._input = model_input
        self._machine = machine
        self._batch_size = batch_size
        self._temperature = temperature
        self._seed = seed
        self._validation_rows = validation_rows
        self._text = TextBatcher(model_input)
        self._lengths = model_input.text_lengths()

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Shuffled train rows; a last batch of one row, which has no negative, is left out."""
        train = self._input.rows("train")
        rows = np.arange(train.start, train.stop)
        found = shuffled_batches(rows, self._batch_size, self._seed, epoch, self._lengths)
        return [batch for batch in found if len(batch) > 1]

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        """Ids, text and the pieces by which the same sample is known."""
        token_ids_BN, length_B = self._text.tokens(rows, multiple_of=TOKEN_MULTIPLE)
        return Batch(
            x_id_BF=np.asarray(self._input.ids[rows]),
            label_B=np.asarray(self._input.labels[rows]),
            token_ids_BN=token_ids_BN,
            length_B=length_B,
            piece_BF=self._text.pieces(rows),
        )

    def count(self, batch: Batch) -> int:
        """Rows."""
        return len(batch)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed InfoNCE of a batch."""
        of_ids_BP, of_text_BP = self._towers(model, batch)
        return info_nce(of_ids_BP, of_text_BP, self._temperature, self._same(batch))

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss on valid, and the share of rows whose ids find their own text among a batch."""
        model.eval()
        part = self._input.rows("valid")
        rows = np.random.Generator(np.random.Philox(0)).permutation(
            np.arange(part.start, part.stop)
        )[: self._validation_rows]
        loss, hits = 0.0, 0
        for start in range(0, len(rows), self._batch_size):
            chosen = rows[start : start + self._batch_size]
            batch = self.prepare(chosen[np.argsort(self._lengths[chosen], kind="stable")])
            of_ids_BP, of_text_BP = self._towers(model, batch)
            same_BB = self._same(batch)
            loss += float(info_nce(of_ids_BP, of_text_BP, self._temperature, same_BB))
            best_B = (of_ids_BP @ of_text_BP.T).argmax(dim=1)
            hits += int(same_BB[torch.arange(len(batch), device=best_B.device), best_B].sum())
        return {
            "valid_alignment_loss": loss / len(rows),
            "valid_alignment_accuracy": hits / len(rows),
        }

    def _towers(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.token_ids_BN is not None
        device = self._machine.device
        with self._machine.autocast():
            of_ids_BP, of_text_BP = model(
                to_device(batch.x_id_BF, device),
                to_device(batch.token_ids_BN, device),
                text_mask(batch, device),
            )
        return of_ids_BP, of_text_BP

    def _same(self, batch: Batch) -> Tensor:
        """Rows that are the same sample: the same text, or the same ids; (B, B) bool."""
        assert batch.piece_BF is not None
        same_BB = np.zeros((len(batch), len(batch)), dtype=bool)
        for view in (batch.piece_BF, batch.x_id_BF):
            _, number_B = np.unique(view, axis=0, return_inverse=True)
            number_B = number_B.reshape(-1)
            same_BB |= number_B[:, None] == number_B[None, :]
        return to_device(same_BB, self._machine.device)


def _distinct(
    token_ids_BN: np.ndarray, length_B: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The distinct texts of a batch, short ones first: ids (U, N), mask, and which a row has."""
    _, first_U, number_B = np.unique(token_ids_BN, axis=0, return_index=True, return_inverse=True)
    order_U = np.argsort(length_B[first_U], kind="stable")
    place_U = np.empty(len(order_U), dtype=np.int64)
    place_U[order_U] = np.arange(len(order_U))
    chosen = first_U[order_U]
    mask_UN = np.arange(token_ids_BN.shape[1]) < length_B[chosen][:, None]
    return (
        to_device(token_ids_BN[chosen], device),
        None if mask_UN.all() else to_device(mask_UN, device),
        to_device(place_U[number_B.reshape(-1)], device),
    )
