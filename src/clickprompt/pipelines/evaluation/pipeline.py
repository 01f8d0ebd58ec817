"""Predictions -> metrics, tables and figures."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.evaluation.nodes import (
    collect_predictions,
    evaluate,
    plot_evaluation,
    show_results,
)


def create_pipeline() -> Pipeline:
    """Compare the three models; the table is printed by every run."""
    return Pipeline(
        [
            Node(
                collect_predictions,
                inputs=[
                    "backbone_predictions",
                    "clickprompt_without_plm_predictions",
                    "clickprompt_with_plm_predictions",
                    "params:ctr",
                    "params:plm",
                    "params:seed",
                ],
                outputs="predictions",
                name="collect_predictions",
            ),
            Node(
                evaluate,
                inputs=[
                    "predictions",
                    "model_input",
                    "pretrained",
                    "clickprompt_with_plm",
                    "params:evaluation",
                ],
                outputs=["evaluation_report", "results"],
                name="evaluate",
            ),
            Node(
                plot_evaluation,
                inputs="evaluation_report",
                outputs=["comparison", "calibration", "roc", "long_tail"],
                name="plot_evaluation",
            ),
            Node(show_results, inputs="evaluation_report", outputs=None, name="show_results"),
        ],
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
        tags="reporting",
    )
