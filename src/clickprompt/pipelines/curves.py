"""Training curves of a finished stage and what its prompts do, as plotly figures."""

from __future__ import annotations

from typing import Any

from clickprompt.training.result import TrainedModel

TITLES = {
    "pretrain": "Pretraining",
    "backbone": "Backbone from scratch",
    "finetune_without_plm": "ClickPrompt without PLM",
    "finetune_with_plm": "ClickPrompt with PLM",
    "distilled": "ClickPrompt distilled",
}


def plot_click_curves(trained: TrainedModel) -> Any:
    """Loss, valid AUC and valid LogLoss by epoch, under the stage's title."""
    return click_curves(trained, TITLES[trained.stage])


def click_curves(trained: TrainedModel, title: str) -> Any:
    """The same under another title."""
    from clickprompt.evaluation.plots import plot_training_curves

    panels = {
        "LogLoss": ["train_loss", "valid_log_loss"],
        "AUC": ["valid_auc"],
    }
    return plot_training_curves(trained.report["history"], panels, title)


def plot_pretraining_curves(trained: TrainedModel) -> Any:
    """Loss and accuracy of PA-MLM or PA-CLM by epoch, with prompts on, off and shuffled.

    Without prompts there is ``off`` alone; without pretraining one point, before the first epoch.
    """
    from clickprompt.evaluation.plots import plot_training_curves

    history = trained.report["history"] or [{"epoch": 0} | trained.report["metrics"]]
    ways = ("on", "off", "shuffled")
    causal = any("valid_clm_loss_prompts_off" in entry for entry in history)
    task, loss, accuracy = (
        ("clm", "PA-CLM loss", "Next-token accuracy")
        if causal
        else ("mlm", "PA-MLM loss", "Masked-token accuracy")
    )
    panels = {
        loss: ["train_loss", *(f"valid_{task}_loss_prompts_{way}" for way in ways)],
        accuracy: [f"valid_{task}_accuracy_prompts_{way}" for way in ways],
    }
    measured = {
        title: [name for name in names if name in history[0]] for title, names in panels.items()
    }
    return plot_training_curves(history, measured, "Pretraining")


def plot_prompt_diagnostics(trained: TrainedModel) -> tuple[Any, Any, Any]:
    """Attention on the prompts, prompts on, off and of another row, gradient norms by part."""
    from clickprompt.evaluation import prompt_plots
    from clickprompt.evaluation.prompts import prompt_summary

    summary = prompt_summary(trained.report)
    title = TITLES[trained.stage]
    return (
        prompt_plots.plot_prompt_attention(
            summary["attention"], f"{title}: which layers listen to the CTR model, for which field"
        ),
        prompt_plots.plot_prompt_effect(
            summary["effect"], f"{title}: what the prompts contribute, on the valid split"
        ),
        prompt_plots.plot_gradient_norms(
            trained.report.get("gradient_norms", []),
            f"{title}: gradient norms",
            clip_norm=trained.report["parameters"]["stage"]["clip_norm"],
        ),
    )
