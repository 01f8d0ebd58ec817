"""Model input -> a model that ClickPrompt is compared with, beside the backbone."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.baseline.nodes import (
    evaluate_baseline,
    plot_baseline_curves,
    train_baseline,
)
from clickprompt.pipelines.evaluation.nodes import show_results


def create_pipeline() -> Pipeline:
    """Train it and compare it; the table is printed by every run."""
    return Pipeline(
        [
            Node(
                train_baseline,
                inputs=[
                    "model_input",
                    "params:ctr",
                    "params:plm",
                    "params:model",
                    "params:backbone",
                    "params:pretrain",
                    "params:finetune.without_plm",
                    "params:training",
                    "params:seed",
                ],
                outputs=["baseline", "baseline_predictions"],
                name="train_baseline",
                tags="training",
            ),
            Node(
                plot_baseline_curves,
                inputs=["baseline", "params:model"],
                outputs="baseline_curves",
                name="plot_baseline_curves",
                tags="training",
            ),
            Node(
                evaluate_baseline,
                inputs=[
                    "backbone_predictions",
                    "baseline_predictions",
                    "baseline",
                    "model_input",
                    "params:ctr",
                    "params:plm",
                    "params:model",
                    "params:evaluation",
                    "params:seed",
                ],
                outputs=["baseline_report", "baseline_results"],
                name="evaluate_baseline",
                tags="reporting",
            ),
            Node(
                show_results,
                inputs="baseline_report",
                outputs=None,
                name="show_baseline",
                tags="reporting",
            ),
        ],
        namespace="baseline",
        prefix_datasets_with_namespace=False,
    )
