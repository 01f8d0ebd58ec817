from __future__ import annotations

import pytest
import torch

from clickprompt.parameters import TrainingParameters
from clickprompt.training import machine
from clickprompt.training.machine import choose_machine


@pytest.mark.parametrize("device", ["cuda:93", "tpu", "nonsense"])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(ValueError, match=f"training.device must be a device .*, got '{device}'"):
        choose_machine(TrainingParameters(device=device))


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match=r"training\.precision 'bf16' needs a device .*, got cpu"):
        choose_machine(TrainingParameters(device="cpu", precision="bf16"))
    assert choose_machine(TrainingParameters(device="cpu")).precision == "float32"


def test_auto_takes_bf16_where_it_is_native(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda device: True)
    chosen = choose_machine(TrainingParameters(device="cpu"))
    assert chosen.precision == "bf16"
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with choose_machine(TrainingParameters(device="cpu", precision="float32")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_threads_are_set():
    choose_machine(TrainingParameters(device="cpu", threads=1))
    assert torch.get_num_threads() == 1
