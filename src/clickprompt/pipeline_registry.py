"""Registered pipelines. Each contains what it needs: the runner skips what is up to date."""

from kedro.pipeline import Pipeline

from clickprompt.pipelines import (
    backbone,
    baseline,
    distillation,
    evaluation,
    finetune,
    ingestion,
    modality_conversion,
    pretrain,
    score,
    study_report,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Names for ``kedro run --pipelines=...``; the default runs everything."""
    read = ingestion.create_pipeline()
    converted = read + modality_conversion.create_pipeline()
    # nodes that only show something always run: not in front of a training that repeats nothing
    data = converted - converted.only_nodes_with_tags("show")
    bundle = score.create_bundle_pipeline
    scratch = data + backbone.create_pipeline() + bundle(["backbone"])
    pretrained = data + pretrain.create_pipeline()
    finetuned = pretrained + finetune.create_pipeline()
    finetuned += bundle(["clickprompt_without_plm", "clickprompt_with_plm"])
    compared = scratch + baseline.create_pipeline()
    distilled = scratch + finetuned + distillation.create_pipeline()
    everything = converted + scratch + finetuned + evaluation.create_pipeline()
    return {
        "__default__": everything,
        "ingestion": read,
        "modality_conversion": converted,
        "backbone": scratch,
        "pretrain": pretrained,
        "finetune": finetuned,
        "evaluation": everything,
        "baseline": compared,
        "distillation": distilled,
        "study_report": study_report.create_pipeline(),
        "score": score.create_pipeline(),
    }
