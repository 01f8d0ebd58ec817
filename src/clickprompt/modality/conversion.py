"""All steps from interactions to the model input, for who needs no pipeline around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from clickprompt.modality.columns import encode_fields
from clickprompt.modality.model_input import ModelInput, write_model_input
from clickprompt.modality.samples import label_and_split
from clickprompt.modality.tokens import tokenise_pieces
from clickprompt.modality.views import build_id_view, build_text_view
from clickprompt.parameters import DataParameters


def convert_interactions(
    interactions: Any,
    data: DataParameters,
    tokenizer: Any,
    folder: str | Path,
    *,
    max_tokens: int = 512,
    long_text: Literal["cut", "error"] = "cut",
) -> ModelInput:
    """Label, split, encode, build both views, tokenise and write.

    Field codes are kept in memory, 4 bytes a row and column; the pipeline keeps them in a file.

    Args:
        interactions: a frame that narwhals reads, filtered already.
        data: columns, label and split.
        tokenizer: see ``PieceTokenizer.of``.
        folder: where the model input is written.
        max_tokens: longest text of a row, special tokens included.
        long_text: whether a longer text is cut or an error.

    Raises:
        ValueError: see the single steps.
    """
    samples = label_and_split(interactions, data)
    field_codes = encode_fields(interactions, samples, data)
    id_view = build_id_view(field_codes, data)
    text_view = build_text_view(field_codes, data)
    tokens = tokenise_pieces(
        text_view, field_codes, tokenizer, max_tokens=max_tokens, long_text=long_text
    )
    return write_model_input(folder, field_codes, id_view, text_view, tokens)
