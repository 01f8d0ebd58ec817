"""What sharding saves: memory of each of two processes, with DDP and with FSDP2.

A random encoder (6 layers of 512, 8,000 tokens), DCNv2, K = 5, PA-MLM, float32, two gloo processes
on this machine, 8 rows of 16 tokens each. Memory is what a process holds beyond that
before the model was built: between two steps, and at its highest in a step.

    python -m benchmarks.sharding
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.results import write_result

PROCESSES = 2
ROWS, TOKENS, SELECTED = 8, 16, 20
STEPS = 3
LAYERS, WIDTH, VOCABULARY = 6, 512, 8_000
MIB = 2**20


def run() -> dict[str, Any]:
    """Both ways, one after the other; numbers of process 0."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_encoder(Path(folder))
        for sharding in ("none", "full"):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=PROCESSES,
                run_id=sharding,
                rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0",
                local_addr="127.0.0.1",
                max_restarts=0,
            )
            results[sharding] = elastic_launch(config, measure)(folder, sharding)[0]
            print(sharding, results[sharding], flush=True)
    return {"processes": PROCESSES, "layers": LAYERS, "width": WIDTH, **results}


def measure(encoder: str, sharding: str) -> dict[str, Any]:
    """In each process: parameters (millions), MiB of tensors and of the process, seconds a step."""
    import torch
    from accelerate import Accelerator

    from clickprompt.parameters import PretrainParameters
    from clickprompt.training.distribution import (
        exchange_gradients,
        join_group,
        own_share,
        prepare_for_processes,
        shard,
    )
    from clickprompt.training.optimizer import build_optimizer

    torch.set_num_threads(1)
    device = torch.device("cpu")
    join_group(device)
    accelerator = Accelerator(cpu=True)
    before = _held()
    model = _model(encoder)
    if sharding == "full":
        shard(model, device)
    optimizer = build_optimizer(model, PretrainParameters(epochs=1, batch_size=PROCESSES * ROWS))
    parallel = prepare_for_processes(model, accelerator)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for number in range(STEPS):
        if number == 1:  # Adam's moments are there from now on
            between = _held() - before
            forget_highest = Path("/proc/self/clear_refs")
            forget_highest.write_text("5")
            started = time.perf_counter()
        parallel(*_batch(number)).square().mean().backward()
        exchange_gradients(trained, parallel, accelerator)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = (time.perf_counter() - started) / (STEPS - 1)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    highest = _status("VmHWM") - before
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return {
        "parameters_million": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "weights_mib": _mib(own_share(p.detach()) for p in model.parameters()),
        "optimizer_mib": _mib(map(own_share, moments)),
        "between_steps_mib": round(between / MIB),
        "highest_mib": round(highest / MIB),
        "seconds_per_step": round(seconds, 2),
    }


def _model(encoder: str) -> Any:
    from clickprompt.ctr import build_ctr
    from clickprompt.models import ClickPromptForPretraining
    from clickprompt.parameters import CTRParameters, PLMParameters, PromptParameters
    from clickprompt.training import parts, stages

    plm = PLMParameters(source=encoder, keep_layers=None)
    ctr = build_ctr(CTRParameters(), (1000,) * 8, generator=parts.random_source(0, "ctr"))
    for parameter in ctr.logit_parameters():
        parameter.requires_grad_(False)
    loaded = parts.load_encoder(plm)
    return ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, loaded, PromptParameters(), 0),
        encoder=loaded,
        mlm_head=stages.load_mlm_head(plm, loaded, generator=parts.random_source(0, "mlm_head")),
    )


def _batch(number: int) -> tuple[Any, ...]:
    import torch

    draw = torch.Generator().manual_seed(number)
    drawn: Callable[..., Any] = lambda high, *shape: torch.randint(high, shape, generator=draw)  # noqa: E731
    return (
        drawn(1000, ROWS, 8),
        drawn(VOCABULARY, ROWS, TOKENS),
        None,
        drawn(ROWS, SELECTED).sort().values,
        drawn(TOKENS, SELECTED),
    )


def _write_encoder(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        intermediate_size=4 * WIDTH,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def _held() -> int:
    """Bytes in memory, without what the allocator keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status must have {name}")


def _mib(tensors: Any) -> int:
    return round(sum(t.numel() * t.element_size() for t in tensors) / MIB)


if __name__ == "__main__":
    result = run()
    print(json.dumps(result, indent=1))
    if "--write" in sys.argv:
        print(f"written: {write_result('sharding', result)}")
