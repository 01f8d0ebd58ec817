"""Published raw files -> interactions."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.ingestion.nodes import (
    read_raw_files,
    report_ingestion,
    show_ingestion_report,
)


def create_pipeline() -> Pipeline:
    """One interactions table, one row a rating, and a report on what could not be read."""
    return Pipeline(
        [
            Node(
                read_raw_files,
                inputs=["raw_files", "params:data"],
                outputs="interactions@stream",
                name="read_raw_files",
            ),
            Node(
                report_ingestion,
                inputs="interactions@stream",
                outputs="ingestion_report",
                name="report_ingestion",
            ),
            Node(
                show_ingestion_report,
                inputs="ingestion_report",
                outputs=None,
                name="show_ingestion_report",
                tags="show",
            ),
        ],
        namespace="ingestion",
        prefix_datasets_with_namespace=False,
        tags="data",
    )
