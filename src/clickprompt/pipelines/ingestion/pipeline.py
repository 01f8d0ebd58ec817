"""Published raw files -> interactions."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.ingestion.nodes import read_raw_files


def create_pipeline() -> Pipeline:
    """One interactions table, one row a rating, and a report on what could not be read."""
    return Pipeline(
        [
            Node(
                read_raw_files,
                inputs=["raw_files", "params:data"],
                outputs=["interactions", "ingestion_report"],
                name="read_raw_files",
            )
        ],
        namespace="ingestion",
        prefix_datasets_with_namespace=False,
        tags="data",
    )
