"""Which device and number format a stage computes with."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from clickprompt.parameters import TrainingParameters
from clickprompt.training.ranks import local_rank, world_size


@dataclass(frozen=True)
class Machine:
    """A device and the precision of its matrix products."""

    device: torch.device
    precision: str

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 for matrix products where the machine has it; weights stay float32."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )


def choose_machine(training: TrainingParameters) -> Machine:
    """Resolve ``auto`` and set the number of CPU threads.

    Raises:
        ValueError: the device does not exist here, or bf16 was asked for and is not native.
    """
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    keep_freed_memory()
    if training.device == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        name = training.device
    if name == "cuda" and world_size() > 1:  # a GPU for each process
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"training.device must be a device of this machine, got {name!r} ({reason})"
        ) from None
    native = has_bf16(device)
    if training.precision == "bf16" and not native:
        raise ValueError(
            f"training.precision 'bf16' needs a device that computes it natively, got {device}"
        )
    precision = training.precision
    if precision == "auto":
        precision = "bf16" if native and bf16_is_quicker(device) else "float32"
    return Machine(device=device, precision=precision)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back to the system after each step.

    A step allocates and frees the same large arrays as the one before. By default each of them
    is mapped anew, and the page faults of one 47 MB embedding gradient take longer than
    computing it. Elsewhere than on glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)


def release_freed_memory() -> None:
    """Give freed memory back to the system, on glibc: batches of many shapes leave gaps.

    Called now and then, it bounds what ``keep_freed_memory`` keeps.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware (emulated ones are slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(
            torch.backends.cpu.get_cpu_capability() == "AVX512"
            and torch.cpu._is_avx512_bf16_supported()
        )
    return False


def bf16_is_quicker(device: torch.device) -> bool:
    """Whether native bf16 matrix products are quicker than float32 ones.

    Not on Intel processors without AMX, or where a virtual machine hides it: on one, AVX512_BF16
    alone gave 147 GFLOP/s against 263 in float32 (``benchmarks.ctr_speed``), on an AMD one 417
    against 194 (``benchmarks.plm_speed``). It follows from what the processor says of
    itself, so that a machine chooses the same every time.
    """
    if device.type != "cpu" or torch.cpu._is_amx_tile_supported():
        return True
    return _processor_vendor() != "GenuineIntel"


def _processor_vendor() -> str:
    """Vendor of the processor as Linux names it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(names, "")


def seed_device(device: torch.device, seed: int) -> None:
    """Seed torch's generator of one device.

    ``torch.manual_seed`` seeds those of all kinds of devices and, for each that is not there yet,
    keeps a written call stack: 0.7 ms of the 11 that a step of DeepFM takes.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)
