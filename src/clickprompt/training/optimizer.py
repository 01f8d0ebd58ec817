"""Optimiser groups and learning-rate schedule (sections 5 and 6 of docs/method.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.adam import adam

from clickprompt.ctr import FeatureEmbedding
from clickprompt.parameters import StageParameters
from clickprompt.training.distribution import common_norm, own_share

# Part of the model (first component of a parameter's name) -> its learning rate.
PARTS = {
    "ctr": "learning_rate_ctr",
    "generator": "learning_rate_prompts",
    "encoder": "learning_rate_plm",
    "item_encoder": "learning_rate_plm",
    "mlm_head": "learning_rate_head",
    "id_head": "learning_rate_head",
    "click_head": "learning_rate_head",
    "ctr_projection": "learning_rate_head",
    "text_projection": "learning_rate_head",
    "alpha": "learning_rate_head",
}

# Rows of a table from which on ``embedding_updates: auto`` means ``batch_rows``.
BATCH_ROWS_FROM = 1_000_000


class LazyAdam(torch.optim.Adam):
    """Adam that updates, of a parameter with a sparse gradient, the rows in the gradient only.

    To parameters with a dense gradient it is ``torch.optim.Adam``. A row in a sparse gradient gets
    the arithmetic of the dense kernel, weight decay included; time and memory of a step do not
    depend on the number of rows. State has the names and shapes of Adam's.

    NOTE[DIFF]: dense Adam, which paper and reference use, moves every row in every step. Here a
    row that is not in the batch keeps its weights and both moments, bit for bit: the moments do
    not fade, the last direction is not followed any further, and weight decay (coupled or
    decoupled) acts only when the row occurs. The bias correction counts all steps, not those of
    the row. Where every row occurs in every step the two are equal. It is the default of tables
    from 1,000,000 rows on (``embedding_updates`` of a stage).

    ``torch.optim.SparseAdam`` has no weight decay and takes 2.5 times as long
    (``benchmarks.large_vocabulary``).
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there; there is no closure."""
        lazy = [
            (group, parameter, parameter.grad.coalesce())
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        for _, parameter, _ in lazy:
            parameter.grad = None
        super().step()
        for group, parameter, gradient in lazy:
            self._update_rows(group, parameter, gradient)
            parameter.grad = gradient

    def _update_rows(
        self, group: dict[str, Any], parameter: nn.Parameter, gradient: torch.Tensor
    ) -> None:
        """Adam on a copy of the rows, which is then written back."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        (row_N,) = gradient.indices()
        tables = (parameter, state["exp_avg"], state["exp_avg_sq"])
        weight_NE, mean_NE, square_NE = (table.index_select(0, row_N) for table in tables)
        beta1, beta2 = group["betas"]
        adam(
            [weight_NE], [gradient.values()], [mean_NE], [square_NE], [], [state["step"]],
            fused=group["fused"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            decoupled_weight_decay=group["decoupled_weight_decay"],
        )  # fmt: skip
        for table, rows_NE in zip(tables, (weight_NE, mean_NE, square_NE), strict=True):
            table.index_copy_(0, row_N, rows_NE)


def feature_embeddings(model: nn.Module) -> Iterator[FeatureEmbedding]:
    """The embedding tables of the CTR model inside ``model``, that of the linear term included."""
    return (module for module in model.modules() if isinstance(module, FeatureEmbedding))


def parameter_groups(model: nn.Module, stage: StageParameters) -> list[dict[str, object]]:
    """Every trainable parameter in exactly one group with its rate and weight decay.

    Biases, norms and the fusion weight alpha have no decay. The embedding tables of the CTR model
    are a group of their own: coupled L2 on them is what matters most there.

    NOTE[DIFF]: the reference trains biases and LayerNorms at 1e-3 whatever the rate of
    their part; here they have the rate of their part, and ``learning_rate_biases_and_norms: 1e-3``
    is the reference's way. A part whose rate is 0 stays frozen as a whole all the same.

    Args:
        model: a model whose top-level children are named in ``PARTS``.
        stage: rates and decay; a rate of 0 freezes the part (no gradient is computed).

    Returns:
        Groups for a torch optimiser, each with ``name``, ``lr``, ``weight_decay``.

    Raises:
        ValueError: every part is frozen.
    """
    tables = {id(embedding.weight) for embedding in feature_embeddings(model)}
    groups: dict[tuple[str, str], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        assert part in PARTS, f"parameter {name} belongs to no optimiser group"
        if getattr(stage, PARTS[part]) == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            kind = "weights" if parameter.ndim >= 2 else "biases_and_norms"
            kind = "embedding" if id(parameter) in tables else kind
            groups.setdefault((part, kind), []).append(parameter)
    if not groups:
        raise ValueError("at least one learning rate must be above 0, got 0 for every part")
    return [
        {
            "name": f"{part}.{kind}",
            "params": parameters,
            "lr": _rate(part, kind, stage),
            "weight_decay": _decay(part, kind, stage),
        }
        for (part, kind), parameters in groups.items()
    ]


def _rate(part: str, kind: str, stage: StageParameters) -> float:
    apart = stage.learning_rate_biases_and_norms
    # alpha is neither a bias nor a norm, though it has no decay either.
    if kind == "biases_and_norms" and part != "alpha" and apart is not None:
        return apart
    rate: float = getattr(stage, PARTS[part])
    return rate


def _decay(part: str, kind: str, stage: StageParameters) -> float:
    if kind == "biases_and_norms":
        return 0.0
    if kind == "embedding" and stage.weight_decay_embedding is not None:
        return stage.weight_decay_embedding
    return (
        stage.weight_decay_plm
        if part in ("encoder", "item_encoder", "mlm_head")
        else stage.weight_decay
    )


def choose_sparse_gradients(model: nn.Module, stage: StageParameters) -> None:
    """Tell each embedding table whether its gradient is sparse (``stage.embedding_updates``)."""
    for embedding in feature_embeddings(model):
        embedding.sparse_gradient = stage.embedding_updates == "batch_rows" or (
            stage.embedding_updates == "auto" and len(embedding.weight) >= BATCH_ROWS_FROM
        )


def build_optimizer(
    model: nn.Module, stage: StageParameters, *, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Adam with L2 in the gradient (``coupled``) or AdamW (``decoupled``), fused.

    Tells each embedding table whether its gradient is sparse (``stage.embedding_updates``).
    """
    choose_sparse_gradients(model, stage)
    return LazyAdam(
        parameter_groups(model, stage),
        betas=betas,
        fused=True,
        decoupled_weight_decay=stage.decay == "decoupled",
    )


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale all gradients so that their common norm is at most ``limit``; sparse ones as well."""
    gradients = dense_gradients(parameters)
    factor = torch.clamp(limit / (common_norm(gradients) + 1e-6), max=1.0)
    for gradient in gradients:
        own_share(gradient).mul_(factor)


def dense_gradients(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients that are there; of a sparse one its values."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Rows that occur twice have to be added up before they are squared.
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        else:
            gradients.append(parameter.grad)
    return gradients


def rate_factor(step: int, *, total: int, stage: StageParameters) -> float:
    """Factor on every learning rate at optimiser step ``step`` of ``total`` (from 0).

    Rises linearly over the warm-up, then stays, or falls to 0 linearly or as a cosine.
    """
    warm = math.ceil(stage.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if stage.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    if stage.schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, base: list[float], factor: float) -> None:
    """Set each group's learning rate to its base rate times ``factor``."""
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors ``<parameter number>.<entry>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{entry}": torch.as_tensor(value)
        for number, entries in state.items()
        for entry, value in entries.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Inverse of ``optimizer_tensors``; the groups stay as they were built."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
