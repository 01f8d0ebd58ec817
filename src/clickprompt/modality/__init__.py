"""Modality conversion: interactions -> the ID view and the text view of every sample.

The steps, each one function (section 1 of docs/method.md)::

    filtered, filter_report = filter_interactions(interactions, data)
    samples = label_and_split(filtered, data)
    field_codes = encode_fields(filtered, samples, data, folder)
    id_view = build_id_view(field_codes, data)
    text_view = build_text_view(field_codes, data)
    piece_tokens = tokenise_pieces(text_view, field_codes, tokenizer, max_tokens=...)
    model_input = write_model_input(folder, field_codes, id_view, text_view, piece_tokens)
    report = build_data_report(read_result.report, model_input, filter_report)

``convert_interactions`` is the steps from ``label_and_split`` on in one call.

Training reads ``ModelInput.open(folder)`` and takes its batches by ``shuffled_batches``,
``TextBatcher(model_input).tokens(rows)`` and ``mask_tokens``. No torch in here.
"""

from clickprompt.modality.batches import (
    TextBatcher,
    mask_ids,
    mask_tokens,
    shuffled_batches,
)
from clickprompt.modality.checks import CheckedInteractions, check_samples
from clickprompt.modality.columns import FieldCodes, encode_fields
from clickprompt.modality.conversion import convert_interactions
from clickprompt.modality.filters import filter_interactions
from clickprompt.modality.model_input import ModelInput, write_model_input
from clickprompt.modality.report import build_data_report, plot_data_report
from clickprompt.modality.samples import SPLITS, label_and_split
from clickprompt.modality.tokens import PieceTokenizer, PieceTokens, tokenise_pieces
from clickprompt.modality.views import IdView, TextView, build_id_view, build_text_view
from clickprompt.modality.vocabulary import Vocabulary

__all__ = [
    "SPLITS",
    "CheckedInteractions",
    "FieldCodes",
    "IdView",
    "ModelInput",
    "PieceTokenizer",
    "PieceTokens",
    "TextBatcher",
    "TextView",
    "Vocabulary",
    "build_data_report",
    "build_id_view",
    "build_text_view",
    "check_samples",
    "convert_interactions",
    "encode_fields",
    "filter_interactions",
    "label_and_split",
    "mask_ids",
    "mask_tokens",
    "plot_data_report",
    "shuffled_batches",
    "tokenise_pieces",
    "write_model_input",
]
