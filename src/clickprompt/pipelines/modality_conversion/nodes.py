"""Nodes of modality conversion."""

from typing import Any

from clickprompt.modality import IdView, ModelInput, PieceTokens, TextView
from clickprompt.parameters import DataParameters, PLMParameters


def filter_interactions(interactions: Any, data: DataParameters) -> tuple[Any, dict[str, Any]]:
    """Leave out users and items with too few rows."""
    from clickprompt import modality

    return modality.filter_interactions(interactions, data)


def label_and_split(filtered_interactions: Any, data: DataParameters) -> Any:
    """Give every row a label and a split; rows between the classes are left out."""
    from clickprompt import modality

    return modality.label_and_split(filtered_interactions, data)


def build_id_view(samples: Any, data: DataParameters) -> IdView:
    """Fit the vocabularies on train and look every value up."""
    from clickprompt import modality

    return modality.build_id_view(samples, data)


def build_text_view(samples: Any, data: DataParameters) -> TextView:
    """Write every distinct value of every field as a piece of text."""
    from clickprompt import modality

    return modality.build_text_view(samples, data)


def tokenise_pieces(text_view: TextView, id_view: IdView, plm: PLMParameters) -> PieceTokens:
    """Tokenise every piece once, with the language model's tokenizer."""
    from clickprompt import modality
    from clickprompt.plm import load_tokenizer

    return modality.tokenise_pieces(
        text_view,
        load_tokenizer(plm),
        max_tokens=_longest_text(plm),
        split_rows=id_view.split_rows,
        long_text=plm.long_text,
    )


def assemble_model_input(
    id_view: IdView, text_view: TextView, piece_tokens: PieceTokens
) -> tuple[IdView, TextView, PieceTokens]:
    """Put both views together; the dataset writes them as memory-mapped arrays."""
    return id_view, text_view, piece_tokens


def report_data(
    ingestion_report: dict[str, Any], filter_report: dict[str, Any], model_input: ModelInput
) -> tuple[dict[str, Any], Any]:
    """Report what became of the rows, and draw it."""
    from clickprompt import modality

    report = modality.build_data_report(ingestion_report, model_input, filter_report)
    return report, modality.plot_data_report(report)


def _longest_text(plm: PLMParameters) -> int:
    """Tokens that a row may have: ``plm.max_tokens``, else all positions of the model."""
    from transformers import AutoConfig

    from clickprompt.plm import resolve_source
    from clickprompt.plm.families import family_of

    source = resolve_source(plm)
    config = AutoConfig.from_pretrained(
        source.folder, local_files_only=True, trust_remote_code=False
    )
    limit = family_of(config.model_type).positions(config)
    if plm.max_tokens is not None and plm.max_tokens > limit:
        raise ValueError(
            f"plm.max_tokens must be at most {limit}, the position limit of {source.name}, "
            f"got {plm.max_tokens}"
        )
    return plm.max_tokens or limit
