"""Model input -> the CTR model alone."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.backbone.nodes import train_backbone
from clickprompt.pipelines.curves import plot_click_curves


def create_pipeline() -> Pipeline:
    """The CTR model from scratch: what ClickPrompt is compared with."""
    return Pipeline(
        [
            Node(
                train_backbone,
                inputs=[
                    "model_input",
                    "params:ctr",
                    "params:backbone",
                    "params:training",
                    "params:seed",
                ],
                outputs=["backbone", "backbone_predictions"],
                name="train_backbone",
            ),
            Node(
                plot_click_curves,
                inputs="backbone",
                outputs="backbone_curves",
                name="plot_backbone_curves",
            ),
        ],
        namespace="backbone",
        prefix_datasets_with_namespace=False,
        tags="training",
    )
