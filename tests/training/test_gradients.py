"""Gradient norms: the right numbers, of the right steps, before clipping, kept when interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clickprompt.ctr import build_ctr
from clickprompt.models import CTRForClicks
from clickprompt.parameters import CTRParameters
from clickprompt.training import loop
from clickprompt.training.checkpoint import Progress
from clickprompt.training.gradients import STEPS_PER_EPOCH, GradientWatch, gradient_norms
from clickprompt.training.optimizer import build_optimizer
from tests.training.test_divergence import STEPS, run
from tests.training.test_optimizer import STAGE, Parts
from tests.training.tiny_run import run_stages

PARTS = {
    "ctr": ("ctr",),
    "prompts": ("generator",),
    "plm": ("encoder",),
    "head": ("click_head", "alpha"),
}


def filled(model: nn.Module) -> nn.Module:
    for number, parameter in enumerate(model.parameters()):
        i = torch.arange(parameter.numel(), dtype=parameter.dtype)
        parameter.grad = torch.sin(1.3 * i + number).view(parameter.shape)
    return model


def test_norms_are_those_of_each_part_and_of_all():
    model = filled(Parts().double())
    found = gradient_norms(build_optimizer(model, STAGE))
    expected = {}
    for part, prefixes in PARTS.items():
        squares = [
            float(value) ** 2
            for name, parameter in model.named_parameters()
            if name.split(".")[0] in prefixes
            for value in parameter.grad.numpy().reshape(-1)
        ]
        expected[part] = sum(squares) ** 0.5
    expected["total"] = sum(norm**2 for norm in expected.values()) ** 0.5
    assert {part: float(norm) for part, norm in found.items()} == pytest.approx(expected, rel=1e-12)


def test_a_part_without_gradient_has_no_norm_and_one_alone_no_total():
    stage = STAGE.model_copy(update={"learning_rate_plm": 0.0})
    model = Parts()
    optimizer = build_optimizer(model, stage)
    filled(model)
    model.generator.weight.grad = model.generator.bias.grad = None
    assert set(gradient_norms(optimizer)) == {"ctr", "head", "total"}
    for name, parameter in model.named_parameters():
        if not name.startswith("ctr."):
            parameter.grad = None
    assert set(gradient_norms(optimizer)) == {"ctr"}


def test_sparse_gradients_have_the_norm_of_dense_ones():
    """Rows that occur twice in a batch are added up before they are squared."""
    found = {}
    for updates in ("all_rows", "batch_rows"):
        ctr = CTRParameters(name="deepfm", embedding_size=4, hidden_sizes=(8,), linear=True)
        model = CTRForClicks(
            ctr=build_ctr(ctr, (5, 3), generator=torch.Generator().manual_seed(0))
        ).double()
        stage = STAGE.model_copy(update={"embedding_updates": updates})
        optimizer = build_optimizer(model, stage)
        x_id_BF = torch.tensor([[1, 2], [1, 0], [4, 2], [1, 2]])
        model(x_id_BF).double().square().sum().backward()
        assert any(p.grad.is_sparse for p in model.parameters()) == (updates == "batch_rows")
        found[updates] = {part: float(norm) for part, norm in gradient_norms(optimizer).items()}
    assert found["batch_rows"] == pytest.approx(found["all_rows"], rel=1e-12)
    assert found["all_rows"].keys() == {"ctr"}


@pytest.mark.parametrize("steps", [1, 5, 20, 21, 1000])
def test_the_first_and_the_last_step_and_some_between_are_measured(steps):
    model = Parts()
    optimizer = build_optimizer(filled(model), STAGE)
    watch = GradientWatch(optimizer, steps=steps)
    for epoch in range(2):
        for step in range(steps):
            watch.measure(epoch, step)
    progress = Progress()
    watch.read(progress)
    watch.read(progress)
    found = [(entry["epoch"], entry["step"]) for entry in progress.gradient_norms]
    assert len(found) == len(set(found)) == 2 * min(steps, STEPS_PER_EPOCH)
    assert found == sorted(found)
    for epoch in (1, 2):
        own = [step for number, step in found if number == epoch]
        assert own[0] == (epoch - 1) * steps + 1
        assert own[-1] == epoch * steps
        gaps = np.diff(own)
        assert gaps.size == 0 or gaps.max() <= gaps.min() + 1


def fitted(folder: Path, monkeypatch, **changes) -> list[dict]:
    """Gradient norms of two short epochs of a backbone."""
    kept = []
    original = loop.fit

    def fit(**arguments):
        kept.append(original(**arguments))
        return kept[-1]

    monkeypatch.setattr("tests.training.test_divergence.fit", fit)
    run(folder, lambda model, epoch, step, loss: loss, **changes)
    return kept[0].gradient_norms


def test_norms_are_taken_before_clipping_and_of_the_whole_step(tmp_path, monkeypatch):
    """Only the first step: what is learnt with clipping is something else."""
    free = fitted(tmp_path / "free", monkeypatch)
    clipped = fitted(tmp_path / "clipped", monkeypatch, clip_norm=1e-3)
    parts = fitted(tmp_path / "parts", monkeypatch, accumulate=4)
    assert [entry["step"] for entry in free][:2] == [1, 2]
    assert free[-1]["step"] == 2 * STEPS
    assert free[0]["ctr"] > 1e-2
    assert clipped[0] == free[0]
    assert parts[0] == pytest.approx(free[0], rel=1e-5)
    assert clipped[5]["ctr"] != free[5]["ctr"]


def test_an_interrupted_training_keeps_the_whole_curve(inputs_folder, tmp_path, monkeypatch):
    """Interrupted after every 29 steps, in the middle of epochs, with a checkpoint at each step."""
    whole = run_stages(inputs_folder, tmp_path / "whole")
    real, steps = loop._step, [0]

    def counted(*arguments, **options):
        if steps[0] == 29:
            steps[0] = 0
            raise KeyboardInterrupt
        steps[0] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "_step", counted)
    interrupted, starts = None, 0
    while interrupted is None:
        starts += 1
        try:
            interrupted = run_stages(inputs_folder, tmp_path / "parts", checkpoint_minutes=0)
        except KeyboardInterrupt:
            continue
    assert starts > 3
    alone, together = {"ctr"}, {"ctr", "prompts", "plm", "head", "total"}
    named = (alone, together, alone, together)
    for expected, found, parts in zip(whole, interrupted, named, strict=True):
        curves = [
            json.loads((Path(folder) / "report.json").read_text())["gradient_norms"]
            for folder in (expected, found)
        ]
        assert curves[0] == curves[1]
        assert len(curves[0]) > 20
        assert set(curves[0][0]) == {"step", "epoch"} | parts
