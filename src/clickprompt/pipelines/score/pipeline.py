"""Trained models -> bundles; a bundle and a file of raw rows -> probabilities."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.score.nodes import make_bundle, score_rows, show_score


def create_bundle_pipeline(models: Sequence[str]) -> Pipeline:
    """A bundle of each of these trained models."""
    return Pipeline(
        [
            Node(
                make_bundle,
                inputs=[model, "model_input", "params:data"],
                outputs=f"{model}_bundle",
                name=f"bundle_{model}",
            )
            for model in models
        ],
        namespace="serving",
        prefix_datasets_with_namespace=False,
        tags="serving",
    )


def create_pipeline() -> Pipeline:
    """Score a file. It trains nothing: any bundle will do, of another machine too."""
    return Pipeline(
        [
            Node(
                score_rows,
                inputs=[
                    "params:score",
                    "backbone_bundle",
                    "clickprompt_without_plm_bundle",
                    "clickprompt_with_plm_bundle",
                ],
                outputs="scoring_report",
                name="score_rows",
            ),
            Node(show_score, inputs="scoring_report", outputs=None, name="show_score"),
        ],
        namespace="score",
        prefix_datasets_with_namespace=False,
        tags="serving",
    )
