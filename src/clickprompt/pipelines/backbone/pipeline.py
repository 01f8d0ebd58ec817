"""Model input -> the CTR model alone."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.backbone.nodes import train_backbone


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
                outputs=["backbone", "backbone_predictions", "backbone_curves"],
                name="train_backbone",
            )
        ],
        namespace="backbone",
        prefix_datasets_with_namespace=False,
        tags="training",
    )
