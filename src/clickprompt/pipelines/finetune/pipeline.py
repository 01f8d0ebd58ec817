"""Pretrained models -> click models, without and with the language model."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.curves import plot_click_curves
from clickprompt.pipelines.finetune.nodes import (
    finetune_with_plm,
    finetune_without_plm,
    plot_finetuning_diagnostics,
)


def create_pipeline() -> Pipeline:
    """Both ways to finetune after pretraining."""
    return Pipeline(
        [
            Node(
                finetune_without_plm,
                inputs=[
                    "model_input",
                    "pretrained",
                    "params:ctr",
                    "params:finetune.without_plm",
                    "params:training",
                    "params:seed",
                ],
                outputs=["clickprompt_without_plm", "clickprompt_without_plm_predictions"],
                name="finetune_without_plm",
            ),
            Node(
                plot_click_curves,
                inputs="clickprompt_without_plm",
                outputs="clickprompt_without_plm_curves",
                name="plot_without_plm_curves",
            ),
            Node(
                finetune_with_plm,
                inputs=[
                    "model_input",
                    "pretrained",
                    "params:ctr",
                    "params:plm",
                    "params:prompts",
                    "params:finetune.with_plm",
                    "params:training",
                    "params:seed",
                ],
                outputs=["clickprompt_with_plm", "clickprompt_with_plm_predictions"],
                name="finetune_with_plm",
            ),
            Node(
                plot_click_curves,
                inputs="clickprompt_with_plm",
                outputs="clickprompt_with_plm_curves",
                name="plot_with_plm_curves",
            ),
            Node(
                plot_finetuning_diagnostics,
                inputs="clickprompt_with_plm",
                outputs=[
                    "clickprompt_with_plm_prompt_attention",
                    "clickprompt_with_plm_prompt_effect",
                    "clickprompt_with_plm_gradient_norms",
                ],
                name="plot_finetuning_diagnostics",
            ),
        ],
        namespace="finetune",
        prefix_datasets_with_namespace=False,
        tags="training",
    )
