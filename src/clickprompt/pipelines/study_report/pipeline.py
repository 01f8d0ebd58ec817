"""Records of cells -> summary -> pages and figures."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.study_report.nodes import plot_study, summarise, write_pages


def create_pipeline() -> Pipeline:
    """The report on the study that ``studies.report`` names."""
    return Pipeline(
        [
            Node(
                summarise,
                inputs=["study_records", "params:studies"],
                outputs="study_summary",
                name="summarise_study",
            ),
            Node(
                write_pages,
                inputs="study_summary",
                outputs="study_pages",
                name="write_study_pages",
            ),
            Node(
                plot_study,
                inputs="study_summary",
                outputs=[
                    "study_differences",
                    "study_plm_size",
                    "study_long_tail",
                    "study_training_time",
                ],
                name="plot_study",
            ),
        ],
        namespace="study_report",
        prefix_datasets_with_namespace=False,
        tags="reporting",
    )
