"""The one training loop: steps, epochs, checkpoints, early stopping.

Processes (if there is more than one) each compute their part of a step's rows; the loss
is divided by the count of the whole step over all processes and parts, so that neither
accumulation nor the number of processes changes what is learnt.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from clickprompt.parameters import (
    ClickStageParameters,
    StageParameters,
    TrainingParameters,
)
from clickprompt.progress import RateProgress
from clickprompt.training.checkpoint import Checkpoints, Progress
from clickprompt.training.distribution import (
    exchange_gradients,
    from_first,
    gradients_stay,
    join_group,
    prepare_for_processes,
    shard,
    share_buffers,
)
from clickprompt.training.divergence import DivergenceWatch
from clickprompt.training.gradients import GradientWatch
from clickprompt.training.listener import StageStoppedError, tell_epochs
from clickprompt.training.machine import Machine, release_freed_memory, seed_device
from clickprompt.training.objectives import Objective
from clickprompt.training.optimizer import (
    build_optimizer,
    choose_sparse_gradients,
    clip_gradients,
    rate_factor,
    set_rates,
)
from clickprompt.training.ranks import world_size

logger = logging.getLogger(__name__)

# Often enough to bound the memory, seldom enough to cost nothing: both must have passed.
STEPS_PER_RELEASE = 10
SECONDS_PER_RELEASE = 2.0

# The loss is looked at after so many steps: a GPU has to be waited for.
STEPS_PER_CHECK = 10


def fit(
    *,
    name: str,
    model: nn.Module,
    objective: Objective,
    stage: StageParameters,
    training: TrainingParameters,
    machine: Machine,
    seed: int,
    folder: Path,
    row_numbers: np.ndarray,
) -> Progress:
    """Train ``model`` in place; continue from a checkpoint in ``folder`` if there is one.

    Args:
        name: of the stage, for messages.
        model: freshly initialised; ends with the best epoch's weights (the last epoch's where
            the objective has no criterion).
        objective: batches, loss, metrics.
        stage: epochs, rates, schedule, patience.
        training: checkpoint interval.
        machine: device and precision.
        seed: of dropout; the objective has its own.
        folder: of this stage and digest; checkpoints are kept in it.
        row_numbers: row of the interactions table by row of the model input, for messages.

    Returns:
        The final position with the history of all epochs and the measured gradients.

    Raises:
        DamagedFolderError: the checkpoint is damaged.
        DivergedError: the loss, or a weight, became infinite or not a number. No checkpoint is
            written with such weights.
        OSError: a checkpoint could not be written; the last one is unchanged.
        StageStoppedError: the listener ended the stage.
    """
    join_group(machine.device)
    accelerator = Accelerator(cpu=machine.device.type == "cpu")
    model.to(machine.device)
    if training.sharding == "full" and accelerator.num_processes > 1:
        choose_sparse_gradients(model, stage)
        shard(model, machine.device)
    optimizer = build_optimizer(model, stage)
    rates = [group["lr"] for group in optimizer.param_groups]
    checkpoints = Checkpoints(folder, writes=accelerator.is_main_process)
    progress = checkpoints.load(model, optimizer) or Progress()
    if progress.epoch or progress.step:
        logger.info(
            "%s continues at epoch %d, step %d", name, progress.epoch + 1, progress.step + 1
        )
    _tell(name, progress, checkpoints)
    parallel = prepare_for_processes(model, accelerator)
    trained = [p for group in optimizer.param_groups for p in group["params"]]

    batches = objective.batches(progress.epoch)
    steps = len(batches)
    total = steps * stage.epochs
    done = progress.epoch * steps + progress.step
    watch = DivergenceWatch(
        name=name,
        objective=objective,
        row_numbers=row_numbers,
        folder=folder,
        writes=accelerator.is_main_process,
    )
    gradients = GradientWatch(optimizer, steps=steps)
    last_save = last_release = clock = time.monotonic()
    drawn = progress.epoch
    bar = RateProgress(name, total=total, done=done, unit="step", shown=accelerator.is_main_process)
    with bar:
        while not progress.finished:
            if drawn != progress.epoch:
                batches, drawn = objective.batches(progress.epoch), progress.epoch
            parallel.train()
            running = torch.zeros((), dtype=torch.float64, device=machine.device)
            running += progress.loss_sum
            shown = ""  # the sum is known at the steps that check it, the count at every step
            for step in range(progress.step, len(batches)):
                factor = rate_factor(progress.epoch * steps + step, total=total, stage=stage)
                set_rates(optimizer, rates, factor)
                loss_sum, count = _step(
                    accelerator, parallel, trained, optimizer, objective, stage,
                    device=machine.device,
                    rows=batches[step], position=(progress.epoch, step), seed=seed,
                    gradients=gradients,
                )  # fmt: skip
                running += loss_sum
                watch.add(step, loss_sum)
                progress.count += count
                progress.step = step + 1
                if (step + 1) % STEPS_PER_CHECK == 0 or step + 1 == len(batches):
                    progress.loss_sum = watch.check_losses(running, progress.epoch)
                    shown = f" loss {progress.loss_sum / max(progress.count, 1):.4f}"
                    gradients.read(progress)
                now = time.monotonic()
                if (step + 1) % STEPS_PER_RELEASE == 0 and now > last_release + SECONDS_PER_RELEASE:
                    release_freed_memory()
                    last_release = now
                bar.advance(len(batches[step]), f"epoch {progress.epoch + 1}{shown}")
                if _save_is_due(training, step, seconds=now - last_save):
                    progress.loss_sum = watch.check_losses(running, progress.epoch)
                    watch.check_weights(model, progress.epoch, progress.step)
                    gradients.read(progress)
                    clock = _count_seconds(progress, clock)
                    _save(accelerator, checkpoints, model, optimizer, progress)
                    last_save = time.monotonic()
            watch.check_weights(model, progress.epoch, progress.step)
            better = _end_epoch(objective, model, progress, stage)
            release_freed_memory()
            if better and objective.criterion:
                checkpoints.save_best(model)
            clock = _count_seconds(progress, clock)
            progress.history[-1]["seconds"] = round(progress.seconds, 3)
            logger.info("%s", _epoch_line(name, progress, stage))
            _save(accelerator, checkpoints, model, optimizer, progress)
            last_save = time.monotonic()
            _tell(name, progress, checkpoints)
    if objective.criterion and progress.best_epoch is not None:
        accelerator.wait_for_everyone()  # until the best weights are written
        checkpoints.load_best(model)
    if accelerator.num_processes > 1:
        accelerator.free_memory()
    return progress


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    trained: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    stage: StageParameters,
    *,
    device: torch.device,
    rows: np.ndarray,
    position: tuple[int, int],
    seed: int,
    gradients: GradientWatch | None = None,
) -> tuple[torch.Tensor, int]:
    """One optimiser step; returns the loss sum (a tensor, not waited for) and the count.

    The device is the stage's: accelerate remembers that of the first stage of a process.
    """
    epoch, step = position
    batch = objective.prepare(rows, epoch, step)
    count = objective.count(batch)
    processes = accelerator.num_processes
    parts = processes * stage.accumulate
    loss_sum = torch.zeros((), device=device)
    for number in range(stage.accumulate):
        part = batch.part(accelerator.process_index * stage.accumulate + number, parts)
        share = processes / count
        if not len(part):  # fewer rows than parts
            if processes == 1:
                continue
            # Each process has to take part in the exchange of gradients: with nothing of a row.
            part, share = batch.part(0, len(batch)), 0.0
        # Dropout follows from the position, so a continued run draws the same.
        seed_device(device, _mix(seed, epoch, step, accelerator.process_index, number))
        last = number == stage.accumulate - 1
        with nullcontext() if last or processes == 1 else gradients_stay(model):
            loss = objective.loss_sum(model, part)
            accelerator.backward(loss * share)
        if share:
            loss_sum += loss.detach()
    if processes > 1:
        loss_sum = accelerator.reduce(loss_sum, reduction="sum")
        exchange_gradients(trained, model, accelerator)
    if gradients is not None:
        gradients.measure(epoch, step)
    if stage.clip_norm is not None:
        clip_gradients(trained, stage.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_sum, count


def _end_epoch(
    objective: Objective, model: nn.Module, progress: Progress, stage: StageParameters
) -> bool:
    """Validate, write the history, decide about going on; whether this epoch is the best."""
    share_buffers(model)
    metrics = from_first(objective.validate(model))
    entry = {"epoch": progress.epoch + 1, "train_loss": progress.loss_sum / max(progress.count, 1)}
    progress.history.append(entry | metrics)
    better = True
    if objective.criterion:
        scores = [entry[objective.criterion] for entry in progress.history]
        best = max(range(len(scores)), key=scores.__getitem__)
        better = best == len(scores) - 1
        progress.best_epoch = best + 1
        assert isinstance(stage, ClickStageParameters)
        progress.finished = len(scores) - 1 - best >= stage.patience
    else:
        progress.best_epoch = progress.epoch + 1
    progress.epoch += 1
    progress.step = progress.count = 0
    progress.loss_sum = 0.0
    progress.finished = progress.finished or progress.epoch == stage.epochs
    return better


def _save_is_due(training: TrainingParameters, step: int, *, seconds: float) -> bool:
    """Whether a checkpoint is written now; processes have clocks that differ, and must agree."""
    if training.checkpoint_minutes == 0:
        return True
    due = seconds >= training.checkpoint_minutes * 60
    if world_size() == 1:
        return due
    return (step + 1) % STEPS_PER_CHECK == 0 and bool(from_first(due))


def _save(
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """One process writes."""
    checkpoints.save(model, optimizer, progress)
    accelerator.wait_for_everyone()


def _tell(name: str, progress: Progress, checkpoints: Checkpoints) -> None:
    """Before each epoch but the first; a stage that is ended leaves no checkpoint behind."""
    if progress.finished:
        return
    try:
        tell_epochs(name, progress.history)
    except StageStoppedError:
        checkpoints.remove()
        raise


def _count_seconds(progress: Progress, since: float) -> float:
    now = time.monotonic()
    progress.seconds += now - since
    return now


def _mix(seed: int, *position: int) -> int:
    """A seed for torch's generator from the position (splitmix64 over its parts)."""
    state = seed & (2**64 - 1)
    for part in position:
        state = (state + 0x9E3779B97F4A7C15 + part) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def _epoch_line(name: str, progress: Progress, stage: StageParameters) -> str:
    entry = progress.history[-1]
    shown = ", ".join(
        f"{key} {value:.4f}" for key, value in entry.items() if key not in ("epoch", "seconds")
    )
    return f"{name} epoch {entry['epoch']} of {stage.epochs}: {shown}"
