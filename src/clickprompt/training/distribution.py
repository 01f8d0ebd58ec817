"""Several processes: gradients are averaged, dense ones by torch's DDP, sparse ones here.

DDP knows sparse gradients of ``nn.Embedding`` on gloo only, and not on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clickprompt.ctr import FeatureEmbedding


def prepare_for_processes(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The model in DDP, its tables with a sparse gradient left out; alone: the model itself."""
    if accelerator.num_processes == 1:
        return model
    sparse = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, FeatureEmbedding) and module.sparse_gradient
    ]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, sparse)
    prepared: nn.Module = accelerator.prepare_model(model)
    return prepared


def exchange_sparse_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Put the mean over the processes into each sparse gradient, its rows in ascending order."""
    for parameter in parameters:
        if parameter.grad is None or not parameter.grad.is_sparse:
            continue
        gradient = parameter.grad.coalesce()
        row_N, value_NE = gradient.indices()[0], gradient.values()
        # Processes have different numbers of rows, and only equal ones can be gathered.
        row_N = accelerator.gather(accelerator.pad_across_processes(row_N, pad_index=-1))
        value_NE = accelerator.gather(accelerator.pad_across_processes(value_NE))
        real_N = row_N >= 0
        parameter.grad = torch.sparse_coo_tensor(
            row_N[real_N].unsqueeze(0),
            value_NE[real_N] / accelerator.num_processes,
            parameter.shape,
            check_invariants=False,
        ).coalesce()
