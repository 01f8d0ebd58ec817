"""Both finetuned models -> ClickPrompt without PLM, taught by ClickPrompt with PLM."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.curves import plot_click_curves
from clickprompt.pipelines.distillation.nodes import distil, evaluate_distilled
from clickprompt.pipelines.evaluation.nodes import show_results


def create_pipeline() -> Pipeline:
    """Teach and compare; the table is printed by every run."""
    return Pipeline(
        [
            Node(
                distil,
                inputs=[
                    "model_input",
                    "pretrained",
                    "clickprompt_with_plm",
                    "params:ctr",
                    "params:plm",
                    "params:prompts",
                    "params:finetune.with_plm",
                    "params:finetune.without_plm",
                    "params:distillation",
                    "params:training",
                    "params:seed",
                ],
                outputs=["clickprompt_distilled", "clickprompt_distilled_predictions"],
                name="distil",
                tags="training",
            ),
            Node(
                plot_click_curves,
                inputs="clickprompt_distilled",
                outputs="clickprompt_distilled_curves",
                name="plot_distilled_curves",
                tags="training",
            ),
            Node(
                evaluate_distilled,
                inputs=[
                    "backbone_predictions",
                    "clickprompt_without_plm_predictions",
                    "clickprompt_with_plm_predictions",
                    "clickprompt_distilled_predictions",
                    "model_input",
                    "params:ctr",
                    "params:plm",
                    "params:evaluation",
                    "params:seed",
                ],
                outputs=["distillation_report", "distillation_results"],
                name="evaluate_distilled",
                tags="reporting",
            ),
            Node(
                show_results,
                inputs="distillation_report",
                outputs=None,
                name="show_distilled",
                tags="reporting",
            ),
        ],
        namespace="distillation",
        prefix_datasets_with_namespace=False,
    )
