"""Several processes: gradients are averaged, and weights and optimiser state may be divided.

Without sharding, torch's DDP averages dense gradients. It knows sparse ones of ``nn.Embedding``
on gloo only, and not on GPUs: they are exchanged here. With sharding, torch's FSDP2 keeps in each
process a part of every dense tensor. Each layer of the encoder and each matrix of the prompt
generator is a unit of its own, whose whole weights exist while it computes; the rest is one unit,
whole during a step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from clickprompt.ctr import FeatureEmbedding
from clickprompt.plm import PromptedEncoder
from clickprompt.plm.families import LayerParts
from clickprompt.prompts import AnyGenerator
from clickprompt.training.ranks import world_size


def join_group(device: torch.device) -> None:
    """Join the other processes, if there are any; gloo on CPUs, nccl on GPUs."""
    if world_size() == 1 or distributed.is_initialized():
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(distributed.rendezvous("env://"))
    # torchrun keeps its store when it starts its processes again, with the old addresses in it.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = distributed.PrefixStore(f"attempt_{attempt}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)


def wait_for_all() -> None:
    """Until every process is here; alone: not at all."""
    if distributed.is_initialized():
        distributed.barrier()


def from_first(value: Any) -> Any:
    """What the first process gives, for decisions that all must take alike; alone: ``value``."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers: each has seen other rows (batch norm)."""
    if distributed.is_initialized():
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)


def prepare_for_processes(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model in DDP, its tables with a sparse gradient left out; alone or sharded: itself."""
    if accelerator.num_processes == 1 or isinstance(model, FSDPModule):
        return model
    names = [f"{name}.weight" for name, _ in _sparse_tables(model)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    prepared: nn.Module = accelerator.prepare_model(model)
    return prepared


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave a part of each dense tensor of ``model`` in this process, in place.

    Tables with a sparse gradient and single numbers stay whole.
    """
    whole = {table.weight for _, table in _sparse_tables(model)}
    whole |= {parameter for parameter in model.parameters() if not parameter.ndim}
    mesh = init_device_mesh(device.type, (world_size(),))
    for module in list(model.modules()):
        if isinstance(module, AnyGenerator):
            for linear in module.modules():
                if isinstance(linear, nn.Linear):
                    fully_shard(linear, mesh=mesh)
        elif isinstance(module, PromptedEncoder):
            for layer in module.family.layers(module.model):
                _make_unit(layer, mesh)
            module.family = replace(module.family, parts=_in_units(module.family.parts))
    _make_unit(model, mesh, whole)


def _make_unit(module: nn.Module, mesh: DeviceMesh, whole: set[nn.Parameter] | None = None) -> None:
    """What is computed by the module's own forward or by ``call`` finds its weights whole."""
    module.call = MethodType(_call, module)  # type: ignore[assignment]
    fully_shard(module, mesh=mesh, ignored_params=whole)
    register_fsdp_forward_method(module, "call")


def call_within(model: nn.Module, function: Callable[..., Any], *tensors: Tensor | None) -> Any:
    """``function(*tensors)``, which uses parts of the model apart; it may be sharded."""
    call: Callable[..., Any] | None = getattr(model, "call", None)
    return call(function, *tensors) if call is not None else function(*tensors)


def _call(module: nn.Module, function: Callable[..., Any], *tensors: Tensor | None) -> Any:
    """What FSDP2 sees as the forward of a unit: its weights are whole inside."""
    return function(*tensors)


def _in_units(parts_of: Callable[[nn.Module], LayerParts]) -> Callable[[nn.Module], LayerParts]:
    """Parts of layers for the encoder, which never calls a layer as a module.

    Each part gathers the layer's weights for itself: three times where the layer's own forward
    would do so once.
    """

    def parts(layer: Any) -> LayerParts:
        own = parts_of(layer)

        def inside(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *tensors: layer.call(function, *tensors)

        return replace(
            own,
            project=inside(own.project),
            query=inside(own.query),
            key_value=inside(own.key_value),
            join=inside(own.join),
            feed_forward=inside(own.feed_forward),
            read=inside(own.read) if own.read is not LayerParts.read else own.read,
        )

    return parts


def gradients_stay(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, gradients of a model in DDP or FSDP2 are added up without being exchanged."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    assert isinstance(model, FSDPModule)
    return _unsynchronised(model)


@contextmanager
def _unsynchronised(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def exchange_gradients(
    parameters: Iterable[nn.Parameter], model: nn.Module, accelerator: Accelerator
) -> None:
    """Put the mean over the processes into each gradient that DDP or FSDP2 leaves alone.

    Rows of a sparse gradient are then in ascending order.
    """
    sharded = isinstance(model, FSDPModule)
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = _mean_of_sparse(parameter.grad, accelerator)
        elif sharded and not isinstance(parameter.grad, DTensor):
            parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")


def _mean_of_sparse(gradient: Tensor, accelerator: Accelerator) -> Tensor:
    shape = gradient.shape
    gradient = gradient.coalesce()
    row_N, value_NE = gradient.indices()[0], gradient.values()
    # Processes have different numbers of rows, and only equal ones can be gathered.
    row_N = accelerator.gather(accelerator.pad_across_processes(row_N, pad_index=-1))
    value_NE = accelerator.gather(accelerator.pad_across_processes(value_NE))
    real_N = row_N >= 0
    return torch.sparse_coo_tensor(
        row_N[real_N].unsqueeze(0),
        value_NE[real_N] / accelerator.num_processes,
        shape,
        check_invariants=False,
    ).coalesce()


def _sparse_tables(model: nn.Module) -> Iterator[tuple[str, FeatureEmbedding]]:
    for name, module in model.named_modules():
        if isinstance(module, FeatureEmbedding) and module.sparse_gradient:
            yield name, module


# --- sharded tensors -------------------------------------------------------------------


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, which every process must ask for; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensors(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Whole tensors, those that were sharded in main memory; every process must call.

    Args:
        tensors: named, some of them sharded.
        keep: False gives an empty mapping: other processes need this one's part only.
    """
    whole = {}
    for name, tensor in tensors.items():
        found = full_tensor(tensor)  # one after the other: at most one is whole on a GPU
        if keep:
            whole[name] = found.cpu() if found is not tensor else found
    return whole


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """``model.load_state_dict`` with whole tensors, of which a sharded model takes its part."""
    state = model.state_dict()
    model.load_state_dict(
        {name: _share(tensor, state.get(name)) for name, tensor in tensors.items()}
    )


def share_like(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Of whole tensors ``<parameter number>.<entry>`` what this process's optimiser holds."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        name: _share(tensor, parameters[int(name.partition(".")[0])])
        for name, tensor in tensors.items()
    }


def _share(tensor: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    # Every process has read the file: nothing needs to be sent.
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def common_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Norm of all gradients together, over the parts of all processes where they are sharded."""
    gradients = list(gradients)
    parts = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    norm = torch.nn.utils.get_total_norm([g for g in gradients if not isinstance(g, DTensor)])
    if not parts:
        return norm
    square = torch.nn.utils.get_total_norm(parts) ** 2
    distributed.all_reduce(square)
    return torch.sqrt(square + norm**2)
