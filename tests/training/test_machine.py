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


def test_auto_takes_bf16_where_it_is_native_and_quick(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda device: True)
    monkeypatch.setattr(machine, "bf16_is_quicker", lambda device: True)
    chosen = choose_machine(TrainingParameters(device="cpu"))
    assert chosen.precision == "bf16"
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with choose_machine(TrainingParameters(device="cpu", precision="float32")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_auto_takes_float32_where_bf16_is_native_and_slow(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16", lambda device: True)
    monkeypatch.setattr(machine, "bf16_is_quicker", lambda device: False)
    assert choose_machine(TrainingParameters(device="cpu")).precision == "float32"
    assert choose_machine(TrainingParameters(device="cpu", precision="bf16")).precision == "bf16"


@pytest.mark.parametrize(
    ("vendor", "amx", "quick"),
    [
        ("GenuineIntel", False, False),
        ("GenuineIntel", True, True),
        ("AuthenticAMD", False, True),
        ("", False, True),
    ],
)
def test_bf16_is_slow_on_intel_without_amx(monkeypatch, vendor, amx, quick):
    monkeypatch.setattr(machine, "_processor_vendor", lambda: vendor)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert machine.bf16_is_quicker(torch.device("cpu")) is quick
    assert machine.bf16_is_quicker(torch.device("cuda")) is True


def test_seeding_a_device_gives_the_numbers_of_torch():
    torch.manual_seed(11)
    expected = torch.rand(3)
    machine.seed_device(torch.device("cpu"), 11)
    assert torch.equal(torch.rand(3), expected)


def test_threads_are_set():
    choose_machine(TrainingParameters(device="cpu", threads=1))
    assert torch.get_num_threads() == 1
