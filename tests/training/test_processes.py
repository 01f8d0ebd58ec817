"""Two processes on gloo learn what one learns, with dense and with sparse gradients."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training import language_processes
from tests.training.processes import train


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["all_rows", "batch_rows"])
def test_two_processes_learn_what_one_learns(tmp_path, updates):
    start_two("tests.training.processes", str(tmp_path), updates)
    expected = train(tmp_path / "alone", updates)
    for number in range(2):
        found = load_file(tmp_path / f"{number}_of_2.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.slow
def test_two_processes_pretrain_without_prompts(tmp_path, inputs_folder):
    """The CTR model has no gradient, which a process that waits for one would hang on."""
    start_two("tests.training.language_processes", str(inputs_folder), str(tmp_path))
    expected = language_processes.train(inputs_folder, tmp_path / "alone")
    for number in range(2):
        found = load_file(tmp_path / f"{number}_of_2.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            same = {"rtol": 0, "atol": 0} if name.startswith("ctr.") else {"rtol": 0, "atol": 3e-5}
            torch.testing.assert_close(found[name], tensor, **same)


def start_two(module: str, *arguments: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-addr", "127.0.0.1", "--master-port", str(port),
        "-m", module, *arguments,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
