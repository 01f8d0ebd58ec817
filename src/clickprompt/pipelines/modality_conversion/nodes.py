"""Nodes of modality conversion."""

import logging
from typing import Any

import pandas as pd

from clickprompt.modality import FieldCodes, IdView, ModelInput, PieceTokens, TextView
from clickprompt.parameters import DataParameters, PLMParameters

logger = logging.getLogger(__name__)


def filter_interactions(interactions: Any, data: DataParameters) -> tuple[Any, dict[str, Any]]:
    """Leave out users and items with too few rows."""
    from clickprompt import modality

    return modality.filter_interactions(interactions, data)


def label_and_split(filtered_interactions: Any, data: DataParameters) -> pd.DataFrame:
    """Give every row a label and a split; rows between the classes are left out."""
    from clickprompt import modality

    samples = modality.label_and_split(filtered_interactions, data)
    modality.check_samples(samples, data)
    return samples


def encode_fields(
    filtered_interactions: Any, samples: pd.DataFrame, data: DataParameters
) -> tuple[Any, pd.DataFrame, DataParameters]:
    """Number the distinct values of every column; the dataset reads and writes batch by batch."""
    return filtered_interactions, samples, data


def build_id_view(field_codes: FieldCodes, data: DataParameters) -> IdView:
    """Fit the vocabularies on train and look every value up."""
    from clickprompt import modality

    return modality.build_id_view(field_codes, data)


def build_text_view(field_codes: FieldCodes, data: DataParameters) -> TextView:
    """Write every distinct value of every field as a piece of text."""
    from clickprompt import modality

    return modality.build_text_view(field_codes, data)


def tokenise_pieces(
    text_view: TextView, field_codes: FieldCodes, plm: PLMParameters
) -> PieceTokens:
    """Tokenise every piece once, with the language model's tokenizer."""
    from clickprompt import modality
    from clickprompt.plm import load_tokenizer

    return modality.tokenise_pieces(
        text_view,
        field_codes,
        modality.PieceTokenizer.of(load_tokenizer(plm), **_text_kind(plm)),
        max_tokens=_longest_text(plm),
        long_text=plm.long_text,
    )


def assemble_model_input(
    field_codes: FieldCodes, id_view: IdView, text_view: TextView, piece_tokens: PieceTokens
) -> tuple[FieldCodes, IdView, TextView, PieceTokens]:
    """Put both views together; the dataset writes them as memory-mapped arrays."""
    return field_codes, id_view, text_view, piece_tokens


def report_data(
    ingestion_report: dict[str, Any], filter_report: dict[str, Any], model_input: ModelInput
) -> tuple[dict[str, Any], Any]:
    """Report what became of the rows, and draw it."""
    from clickprompt import modality

    report = modality.build_data_report(ingestion_report, model_input, filter_report)
    return report, modality.plot_data_report(report)


def compare_counts(
    data_report: dict[str, Any],
    filter_report: dict[str, Any],
    ingestion_report: dict[str, Any],
    data: DataParameters,
) -> None:
    """Print published beside found counts; warn where they differ."""
    from rich.console import Console

    from clickprompt.modality import expected

    counts = expected.compare_counts(data, data_report, filter_report, ingestion_report["table"])
    if counts:
        Console().print(expected.counts_table(counts, data.reader))
    if message := expected.differences(counts):
        logger.warning(message)


def _text_kind(plm: PLMParameters) -> dict[str, Any]:
    """Which special tokens stand around a text of this model."""
    from clickprompt.plm import resolve_source
    from clickprompt.plm.families import family_of

    source = resolve_source(plm)
    if source.encoder_decoder:
        return {"encoder_decoder": True}
    return {"causal": family_of(source.config().get("model_type")).causal}


def _longest_text(plm: PLMParameters) -> int:
    """Tokens that a row may have: ``plm.max_tokens``, else all positions after the offset."""
    from clickprompt.plm import resolve_source
    from clickprompt.plm.families import family_of

    source = resolve_source(plm)
    if source.encoder_decoder:  # relative positions: no limit but that of its pretraining
        return plm.max_tokens or int(source.model_config().n_positions)
    family = family_of(source.config().get("model_type"))
    positions, offset = family.positions(source.model_config()), plm.position_offset
    limit = positions - offset
    if limit < 4:
        raise ValueError(
            f"plm.position_offset must be at most {positions - 4}, which leaves 4 positions of "
            f"{source.name} to the text, got {offset}"
        )
    if plm.max_tokens is not None and plm.max_tokens > limit:
        less = f" less plm.position_offset {offset}" if offset else ""
        raise ValueError(
            f"plm.max_tokens must be at most {limit}, the position limit of {source.name}{less}, "
            f"got {plm.max_tokens}"
        )
    return plm.max_tokens or limit
