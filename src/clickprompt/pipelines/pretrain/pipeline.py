"""Model input -> CTR model, prompt generator and language model, pretrained together."""

from kedro.pipeline import Node, Pipeline

from clickprompt.pipelines.curves import plot_pretraining_curves
from clickprompt.pipelines.pretrain.nodes import plot_pretraining_diagnostics, pretrain


def create_pipeline() -> Pipeline:
    """Prompt-augmented masked language modelling, with prompts on, off and shuffled on valid."""
    return Pipeline(
        [
            Node(
                pretrain,
                inputs=[
                    "model_input",
                    "params:ctr",
                    "params:plm",
                    "params:prompts",
                    "params:pretrain",
                    "params:training",
                    "params:seed",
                ],
                outputs="pretrained",
                name="pretrain_with_prompts",
            ),
            Node(
                plot_pretraining_curves,
                inputs="pretrained",
                outputs="pretraining_curves",
                name="plot_pretraining_curves",
            ),
            Node(
                plot_pretraining_diagnostics,
                inputs="pretrained",
                outputs=[
                    "pretraining_prompt_attention",
                    "pretraining_prompt_effect",
                    "pretraining_gradient_norms",
                ],
                name="plot_pretraining_diagnostics",
            ),
        ],
        namespace="pretrain",
        prefix_datasets_with_namespace=False,
        tags="training",
    )
