"""What cheaper ways to adapt the language model cost and keep, on the embedded data.

Each way differs from full finetuning in one thing: the PLM frozen (learning rate 0), its lower
half frozen, LoRA of rank 8, gradient checkpointing, prompts through a bottleneck of 32.

- Cost: a step of pretraining and one of finetuning with the PLM, MiniLM with all 6 layers, batch
  and everything else as in ``conf/base``. Each in a process of its own: trained numbers, size
  of the optimiser's state, peak memory, samples per second. Memory is what the peak of the process
  adds to its size before the model is built.
- Quality: one epoch of pretraining and one of finetuning with the layers of ``conf/base`` on
  the rows of the first users, and the finetuning without the PLM from the same pretraining.

LoRA has learning rates of its own, since its matrices are small; nothing is tuned.

    python -m benchmarks.adaptation [--seeds 1] [--users 120] [--seconds 8]

Trained stages are kept by their digest in the work folder, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.ctr_cost import reset_peak
from benchmarks.measured import own_peak_mb, run_measured
from benchmarks.project import REPOSITORY, base_parameters, convert_files, embedded_files
from benchmarks.results import write_result
from benchmarks.scale import WORK

SEEDS = 1
USERS = 120
SECONDS = 8.0
WARM_UP_STEPS = 3
STAGES = ("pretrain", "finetune_with_plm")
VARIANTS = (
    "full",
    "frozen",
    "lower_half_frozen",
    "lora",
    "gradient_checkpointing",
    "bottleneck",
)
FINETUNE_RATE = 3e-5
LORA_RATES = {"pretrain": 2e-3, "finetune": 3e-4}


def changes_of(variant: str, layers: int) -> dict[str, Any]:
    """What a variant changes in ``conf/base``, for a PLM of so many layers."""
    rates = {"finetune": {"with_plm": {"learning_rate_plm": FINETUNE_RATE}}}
    own: dict[str, dict[str, Any]] = {
        "full": {},
        "frozen": {
            "pretrain": {"learning_rate_plm": 0.0},
            "finetune": {"with_plm": {"learning_rate_plm": 0.0}},
        },
        "lower_half_frozen": {"plm": {"freeze_layers": layers // 2}},
        "lora": {
            "plm": {"lora": {"rank": 8}},
            "pretrain": {"learning_rate_plm": LORA_RATES["pretrain"]},
            "finetune": {"with_plm": {"learning_rate_plm": LORA_RATES["finetune"]}},
        },
        "gradient_checkpointing": {"plm": {"gradient_checkpointing": True}},
        "bottleneck": {"prompts": {"bottleneck": 32}},
    }
    return _merged(rates, own[variant])


def run(
    *,
    seeds: int = SEEDS,
    users: int = USERS,
    seconds: float = SECONDS,
    work: Path = WORK,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the cost of every variant, then its quality.

    Args:
        seeds: 0, 1, ... of the quality.
        users: the quality is measured on the rows of the first users.
        seconds: time of the timed steps of each cost.
        work: folder of model inputs and trained models, which are kept.
        changes: of parameters of ``conf/base``, for all variants.

    Returns:
        ``costs`` (one entry a variant and stage) and ``quality`` (one a variant and seed), with
        ``settings`` that tell what they were measured with.

    Raises:
        CommandError: a process failed.
    """
    changes = dict(changes or {})
    deep = _merged({"plm": {"keep_layers": None}}, changes)
    parameters = base_parameters(changes=deep)
    whole = work / "adaptation_input"
    model_input = convert_files(embedded_files(), whole, parameters)
    costs = []
    for variant in VARIANTS:
        for stage in STAGES:
            command = [sys.executable, "-m", "benchmarks.adaptation", "--measure"]
            measured = run_measured(
                [*command, str(whole.resolve()), variant, stage, str(seconds), json.dumps(deep)],
                folder=REPOSITORY,
                environment={"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
            )
            costs.append({"variant": variant, "stage": stage, **measured.result})
            print(json.dumps(costs[-1]), file=sys.stderr, flush=True)
    return {
        "settings": {
            "layers": costs[0]["layers"],
            "batch": parameters.pretrain.batch_size,
            "prompts": parameters.prompts.count,
            "mean_tokens": round(float(model_input.text_lengths().mean()), 2),
            "precision": costs[0]["precision"],
            "users": users,
            "seeds": seeds,
            "finetune_rate": FINETUNE_RATE,
            "lora_rates": LORA_RATES,
        },
        "costs": costs,
        **qualities(seeds=seeds, users=users, work=work, changes=changes),
    }


# --- cost ------------------------------------------------------------------------------


def measure(
    folder: Path, variant: str, stage: str, seconds: float, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """The cost of one variant in one stage, in this process.

    Args:
        folder: of the model input.
        variant: one of ``VARIANTS``.
        stage: one of ``STAGES``.
        seconds: the timed steps take at least this long.
        changes: of parameters of ``conf/base``.
    """
    from clickprompt.modality import ModelInput
    from clickprompt.training.machine import choose_machine, release_freed_memory
    from clickprompt.training.optimizer import build_optimizer, optimizer_tensors

    parameters = _parameters(variant, changes)
    model_input = ModelInput.open(folder)
    machine = choose_machine(parameters.training)
    release_freed_memory()
    reset_peak()
    before = own_peak_mb()
    model, objective, settings = _build(parameters, model_input, machine, stage)
    optimizer = build_optimizer(model, settings)
    batches = objective.batches(0)

    def step(number: int) -> int:
        model.train()
        rows = batches[number % len(batches)]
        batch = objective.prepare(rows, 0, number)
        (objective.loss_sum(model, batch) / objective.count(batch)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return len(rows)

    for number in range(WARM_UP_STEPS):
        release_freed_memory()  # so that gaps between earlier shapes do not count
        step(number)
    peak = own_peak_mb()
    samples, number, started = 0, WARM_UP_STEPS, time.perf_counter()
    while time.perf_counter() - started < seconds or not samples:
        samples += step(number)
        number += 1
    rate = samples / (time.perf_counter() - started)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    of_plm = {id(p) for p in model.encoder.parameters()}
    return {
        "layers": model.encoder.layers,
        "precision": machine.precision,
        "trained": sum(p.numel() for p in trained),
        "trained_plm": sum(p.numel() for p in trained if id(p) in of_plm),
        "optimizer_bytes": sum(t.nbytes for t in optimizer_tensors(optimizer).values()),
        "memory_mb": peak - before,
        "samples_per_second": round(rate, 1),
        "steps": number - WARM_UP_STEPS,
    }


def _build(parameters: Any, model_input: Any, machine: Any, stage: str) -> tuple[Any, Any, Any]:
    """Model, objective and parameters of a stage, as `clickprompt.training.stages` has them."""
    from clickprompt.training import parts, stage_run, stages

    ctr = parts.fresh_ctr(parameters.ctr, model_input, 0)
    pretrains = stage == "pretrain"
    settings = parameters.pretrain if pretrains else parameters.finetune.with_plm
    encoder = parts.load_plm(parameters.plm, settings, 0)
    generator = parts.fresh_generator(ctr, encoder, parameters.prompts, 0)
    if not pretrains:
        clicks = parts.ClickPromptForClicks(
            ctr=ctr,
            generator=generator,
            encoder=encoder,
            pooling=settings.pooling,
            fusion=settings.fusion,
            alpha=settings.alpha,
        )
        clicks.click_head.initialise(parts.random_source(0, "click_head"))
        objective = stage_run.click_objective(
            model_input, machine, settings, parameters.training, 0, text=True
        )
        return clicks, objective, settings
    for parameter in ctr.logit_parameters():
        parameter.requires_grad_(False)
    model = stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=generator,
        encoder=encoder,
        mlm_head=stages.load_mlm_head(
            parameters.plm,
            encoder,
            tied=settings.masking.tied,
            generator=parts.random_source(0, "mlm_head"),
        ),
    )
    masked = stages.MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=settings.masking,
        batch_size=settings.batch_size,
        evaluation_batch_size=parameters.training.evaluation_batch_size,
        seed=0,
    )
    return model, masked, settings


# --- quality ---------------------------------------------------------------------------


def qualities(*, seeds: int, users: int, work: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Train every variant on the rows of the first users; see `run`.

    Returns:
        ``quality``: variant, seed, ``mlm_loss`` (valid, prompts on), test AUC and LogLoss with
        and without the PLM, seconds of pretraining and of finetuning with the PLM;
        ``backbone``: test AUC and LogLoss of the CTR model from scratch, by seed;
        ``rows``: of the three splits.
    """
    from clickprompt.training import stages

    files = _first_users(users, work / f"adaptation_{users}_users")
    one_epoch = {
        "pretrain": {"epochs": 1},
        "finetune": {"with_plm": {"epochs": 1}},
        "training": {"device": "cpu", "folder": str(work / "adaptation_models")},
    }
    changes = _merged(one_epoch, changes)
    folder = work / f"adaptation_{users}_input"
    model_input = convert_files(files, folder, base_parameters(changes=dict(changes)))
    quality, backbone = [], []
    for seed in range(seeds):
        for variant in VARIANTS:
            parameters = _parameters(variant, changes)
            shared = {
                "model_input": model_input,
                "ctr": parameters.ctr,
                "training": parameters.training,
                "seed": seed,
            }
            text = {"plm": parameters.plm, "prompts": parameters.prompts}
            if variant == "full":
                trained = stages.train_backbone(**shared, stage=parameters.backbone)
                backbone.append({"seed": seed, **_test_metrics(trained)})
            pretrained = stages.pretrain(**shared, **text, stage=parameters.pretrain)
            alone = stages.finetune_without_plm(
                **shared, pretrained=pretrained, stage=parameters.finetune.without_plm
            )
            together = stages.finetune_with_plm(
                **shared, **text, pretrained=pretrained, stage=parameters.finetune.with_plm
            )
            quality.append(
                {
                    "variant": variant,
                    "seed": seed,
                    "mlm_loss": pretrained.report["metrics"]["valid_mlm_loss_prompts_on"],
                    "with_plm": _test_metrics(together),
                    "without_plm": _test_metrics(alone),
                }
            )
            print(json.dumps(quality[-1]), file=sys.stderr, flush=True)
    return {
        "quality": quality,
        "backbone": backbone,
        "rows": model_input.metadata["split_rows"],
        "quality_layers": _layers(base_parameters(changes=dict(changes)).plm),
    }


def _test_metrics(trained: Any) -> dict[str, float]:
    metrics = trained.report["metrics"]
    return {"auc": metrics["test_auc"], "log_loss": metrics["test_log_loss"]}


def _first_users(users: int, folder: Path) -> dict[str, Path]:
    """The embedded files with the ratings of the first users only."""
    files = embedded_files()
    header, *lines = files["ratings.csv"].read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if int(line.partition(",")[0]) <= users]
    folder.mkdir(parents=True, exist_ok=True)
    ratings = folder / "ratings.csv"
    ratings.write_text(header + "".join(kept), encoding="utf-8")
    return {**files, "ratings.csv": ratings}


# --- parameters ------------------------------------------------------------------------


def _parameters(variant: str, changes: Mapping[str, Any]) -> Any:
    """``conf/base`` with the changes of all variants, then those of this one."""
    plm = base_parameters(changes=dict(changes)).plm
    return base_parameters(changes=_merged(changes, changes_of(variant, _layers(plm))))


def _layers(plm: Any) -> int:
    from clickprompt.plm import resolve_source

    return int(plm.keep_layers or resolve_source(plm).config()["num_hidden_layers"])


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second one stronger."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def main() -> None:
    """Measure from the command line, or one cost for :func:`run`."""
    if sys.argv[1:2] == ["--measure"]:
        folder, variant, stage, seconds, changes = sys.argv[2:]
        measured = measure(Path(folder), variant, stage, float(seconds), json.loads(changes))
        print("\n" + json.dumps(measured))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--users", type=int, default=USERS, help="whose rows the quality is of")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timed steps, each cost")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of what is trained")
    arguments = parser.parse_args()
    result = run(
        seeds=arguments.seeds,
        users=arguments.users,
        seconds=arguments.seconds,
        work=arguments.work,
    )
    print(f"written: {write_result('adaptation', result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
