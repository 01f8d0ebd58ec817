"""Interactions -> filtered -> labelled samples -> field codes -> the two views -> arrays."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.modality_conversion.nodes import (
    assemble_model_input,
    build_id_view,
    build_text_view,
    compare_counts,
    encode_fields,
    filter_interactions,
    label_and_split,
    report_data,
    tokenise_pieces,
)


def create_pipeline() -> Pipeline:
    """Filter, labels and split, codes, the ID view, the text view, and both as integer arrays."""
    return Pipeline(
        [
            Node(
                filter_interactions,
                inputs=["interactions@frame", "params:data"],
                outputs=["filtered_interactions", "filter_report"],
                name="filter_interactions",
            ),
            Node(
                label_and_split,
                inputs=["filtered_interactions", "params:data"],
                outputs="samples",
                name="label_and_split",
            ),
            Node(
                encode_fields,
                inputs=["filtered_interactions", "samples", "params:data"],
                outputs="field_codes",
                name="encode_fields",
            ),
            Node(
                build_id_view,
                inputs=["field_codes", "params:data"],
                outputs="id_view",
                name="build_id_view",
            ),
            Node(
                build_text_view,
                inputs=["field_codes", "params:data"],
                outputs="text_view",
                name="build_text_view",
            ),
            Node(
                tokenise_pieces,
                inputs=["text_view", "field_codes", "params:plm"],
                outputs="piece_tokens",
                name="tokenise_pieces",
            ),
            Node(
                assemble_model_input,
                inputs=["field_codes", "id_view", "text_view", "piece_tokens"],
                outputs="model_input",
                name="assemble_model_input",
            ),
            Node(
                report_data,
                inputs=["ingestion_report", "filter_report", "model_input"],
                outputs=["data_report", "data_figure"],
                name="report_data",
            ),
            Node(
                compare_counts,
                inputs=["data_report", "filter_report", "ingestion_report", "params:data"],
                outputs=None,
                name="compare_counts",
                tags="show",
            ),
        ],
        namespace="modality_conversion",
        prefix_datasets_with_namespace=False,
        tags="data",
    )
