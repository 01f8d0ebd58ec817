"""A language model that reads text together with one set of prompts per row and layer.

Letters: B batch, N text columns, T text tokens of all rows, L layers, H hidden size, A heads,
d = H/A, K prompts, S selected tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clickprompt.parameters import PLMParameters
from clickprompt.plm.attention import KERNELS, prompted_attention
from clickprompt.plm.dropout import use_quick_dropout
from clickprompt.plm.families import Family, LayerParts, Rotations, family_of
from clickprompt.plm.lora import add_lora
from clickprompt.plm.observation import Observer, PromptShares, prompt_shares
from clickprompt.plm.slots import Group, Slots, row_groups, slots_in_rows, text_slots
from clickprompt.plm.source import quiet_transformers, resolve_source
from clickprompt.prompts.layouts import HiddenStatePrompts, InputPrompts, KeyValuePrompts, Prompts

Positions = tuple[Tensor, Tensor]
# Told of a layer's parts, queries, keys and prompts before it attends.
_Look = Callable[[LayerParts, Tensor, Tensor, tuple[Tensor, Tensor] | None], None]

# Rows that attend in one rectangle on a CPU.
ROWS_OF_GROUP = 64


@dataclass(frozen=True)
class _Queries:
    """Packed tokens that ask in a layer: all of them, or in the last layer the selected ones.

    Attributes:
        slots: of each group's queries.
        column_Q: column of each query.
        rotations: of the queries.
    """

    slots: list[Slots]
    column_Q: Tensor
    rotations: Rotations


@dataclass(frozen=True)
class _Text:
    """What all layers know of a batch: groups of rows, and rotations of the packed tokens."""

    groups: list[Group]
    rotations: Rotations


class PromptedEncoder(nn.Module):
    """An encoder whose layers read prompts (section 4 of docs/method.md).

    NOTE[DIFF]: the reference shifts the text's position ids by K when its layers have prompts; here
    the text keeps its positions. ``position_offset=K`` gives the reference's numbers. Prompts in
    front of the text have positions themselves, here and there.

    NOTE[DIFF]: paper and reference train the whole PLM or none of it. Here its lower layers can
    be frozen together with the embeddings (``freeze_layers``, 0 by default): no gradient is
    computed in them, so the prompts of these layers act but teach the prompt generator nothing;
    it learns from the layers above only.

    Args:
        model: a transformers encoder; its layers' parts are used, their attention is not.
        family: its entry in `clickprompt.plm.families.FAMILIES`.
        attention: which kernel attends (`clickprompt.plm.attention`).
        position_offset: added to the position id of every token.
        freeze_layers: the lower n layers and the embeddings run without gradients.
        gradient_checkpointing: keep the input of a layer only and compute the layer again, with
            the same dropout, in the backward pass.

    Attributes:
        rectangular: compute padding like text, all rows in one rectangle. No shape then depends on
            what the mask says, which an exported graph needs; the numbers at text are the same.

    Raises:
        ValueError: ``freeze_layers`` is not in 0..L.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        family: Family,
        attention: Literal["auto", "sdpa", "matmul"] = "auto",
        position_offset: int = 0,
        freeze_layers: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        config: Any = model.config
        self.model = model
        self.family = family
        self.kernel = KERNELS[attention]
        self.hidden_size: int = config.hidden_size
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.head_size: int = config.hidden_size // config.num_attention_heads
        self.vocabulary_size: int = config.vocab_size
        self.embedding_size: int = family.embedding_size(config)
        self.position_offset = position_offset
        self.position_limit: int = family.positions(config) - position_offset
        self._first_position = family.first_position(config) + position_offset
        self.freeze_layers = freeze_layers
        self.gradient_checkpointing = gradient_checkpointing
        self.rectangular = False
        self._freeze()

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of word embeddings (V, H)."""
        table: nn.Embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        return table

    @overload
    def forward(
        self,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        prompts: Prompts | None = None,
        *,
        all_layers: Literal[False] = False,
        last_layer_at: Positions | None = None,
        with_prompts: bool = False,
        observe: Observer | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        prompts: Prompts | None = None,
        *,
        all_layers: Literal[True],
        last_layer_at: None = None,
        with_prompts: bool = False,
        observe: Observer | None = None,
    ) -> tuple[Tensor, ...]: ...

    def forward(
        self,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        prompts: Prompts | None = None,
        *,
        all_layers: bool = False,
        last_layer_at: Positions | None = None,
        with_prompts: bool = False,
        observe: Observer | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Hidden states of the text.

        Everything but attention itself is computed for the text tokens alone (packed one after
        the other), so padding costs next to nothing.

        Args:
            token_ids_BN: token ids, special tokens included, padded on the right.
            mask_BN: bool, True at text tokens; None when no row is padded.
            prompts: of one layout, or None for the plain encoder.
            all_layers: give the output of every layer, not only the last.
            last_layer_at: rows (S,) and columns (S,) of the text: the last layer computes its
                queries, its output projection and its feed-forward part at these positions only.
                The numbers are those of the full forward, for a fraction of the work.
            with_prompts: give the columns of `InputPrompts`, too: (B, K + N, H).
            observe: told, layer by layer, how much attention each token gives to the prompts; it
                costs a second computation of the attention weights and changes no output.

        Returns:
            The last layer's output (B, N, H), without meaning at padding; with ``all_layers`` a
            tuple of the outputs of layers 1 to L; with ``last_layer_at`` the last layer's output
            (S, H).

        Raises:
            ValueError: the text is longer than the position limit, the prompts have a wrong
                shape, ``all_layers`` and ``last_layer_at`` are both asked for, or ``observe`` is
                given without prompts or with ``last_layer_at``.
        """
        front = prompts.vector_BKE.shape[1] if isinstance(prompts, InputPrompts) else 0
        self._check(token_ids_BN, prompts, front)
        if all_layers and last_layer_at is not None:
            raise ValueError("last_layer_at must be None with all_layers, got both")
        if observe is not None and last_layer_at is not None:
            raise ValueError("last_layer_at must be None with observe, got both")
        if observe is not None and prompts is None:
            raise ValueError("prompts must be given with observe, got None")
        if mask_BN is None:
            mask_BN = torch.ones_like(token_ids_BN, dtype=torch.bool)
        mask_BN = mask_BN.bool()
        if front:
            mask_BN = functional.pad(mask_BN, (front, 0), value=True)
            token_ids_BN = functional.pad(token_ids_BN, (front, 0))
        batch, width = token_ids_BN.shape
        if self.rectangular:
            text = Slots(torch.arange(batch * width, device=mask_BN.device), batch, width)
            groups = [Group(batch, text, mask_BN[:, None, None, :])]
            column_T = torch.arange(width, device=mask_BN.device).expand(batch, -1).flatten()
        else:
            text = text_slots(mask_BN)
            # On a GPU each group would cost more launches than its padding does.
            size = ROWS_OF_GROUP if mask_BN.device.type == "cpu" else batch
            groups = row_groups(text, mask_BN, size)
            column_T = text.at_T % width
        position_ids_1T = (column_T + self._first_position)[None]
        words_TE = self.word_embeddings(token_ids_BN.flatten()[text.at_T])
        if isinstance(prompts, InputPrompts):
            words_TE = torch.index_copy(
                words_TE,
                0,
                (column_T < front).nonzero()[:, 0],
                prompts.vector_BKE.flatten(0, 1).to(words_TE.dtype),
            )
        hidden_TH = self.family.embed(self.model, words_TE[None], position_ids_1T)[0]
        if torch.is_autocast_enabled(hidden_TH.device.type):
            # From here on in the number format of the products: norms and residuals follow it, and
            # no layer has to cast what it reads. Norms compute in float32 inside.
            hidden_TH = hidden_TH.to(torch.get_autocast_dtype(hidden_TH.device.type))
        rotations = self.family.rotations(self.model, position_ids_1T)
        packed = _Text(groups, rotations)
        everyone = _Queries([group.slots for group in groups], column_T, rotations)
        # unbind and not an index a layer: the gradient is written once, not added up.
        written: Sequence[tuple[Tensor, ...]] = [()] * self.layers
        if isinstance(prompts, KeyValuePrompts):
            both = prompts.key_BLAKd.unbind(1), prompts.value_BLAKd.unbind(1)
            written = list(zip(*both, strict=True))
        elif isinstance(prompts, HiddenStatePrompts):
            written = [(vector_BKH,) for vector_BKH in prompts.vector_BLKH.unbind(1)]
        layers = self.family.layers(self.model)
        last_norm = self.family.last_norm(self.model)
        hiddens = []
        for number, layer in enumerate(layers if last_layer_at is None else layers[:-1]):
            parts = self.family.parts(layer)
            look = None
            if observe is not None:
                look = partial(self._look, observe, number, text, front, everyone, packed)
            hidden_TH = self._layer_at(
                number, parts, hidden_TH, hidden_TH, everyone, packed, written[number], look
            )
            if number == self.layers - 1:
                hidden_TH = last_norm(hidden_TH)
            if all_layers:
                hiddens.append(hidden_TH)
        if last_layer_at is None:
            start = 0 if with_prompts else front
            wide = [text.spread(hidden_TH)[:, start:] for hidden_TH in hiddens or (hidden_TH,)]
            return tuple(wide) if all_layers else wide[0]

        parts = self.family.parts(layers[-1])
        rows_S, columns_S = last_layer_at
        order_S = torch.argsort(rows_S, stable=True)  # groups need the order of the rows
        rows_S, columns_S = rows_S[order_S], columns_S[order_S] + front
        number_P = torch.empty(batch * width, dtype=torch.int64, device=mask_BN.device)
        number_P[text.at_T] = torch.arange(len(text.at_T), device=mask_BN.device)
        at_S = number_P[rows_S * width + columns_S]
        asking, first = [], 0
        for group in groups:
            inside_S = (rows_S >= first) & (rows_S < first + group.rows)
            asking.append(slots_in_rows(rows_S[inside_S] - first, group.rows))
            first += group.rows
        selected = _Queries(
            asking,
            columns_S,
            {kind: (cos_Td[at_S], sin_Td[at_S]) for kind, (cos_Td, sin_Td) in rotations.items()},
        )
        hidden_SH = hidden_TH.index_select(0, at_S)
        hidden_SH = last_norm(
            self._layer_at(
                self.layers - 1, parts, hidden_SH, hidden_TH, selected, packed, written[-1]
            )
        )
        return hidden_SH.index_select(0, torch.argsort(order_S))

    def _freeze(self) -> None:
        """No gradients for what stands below the first layer that learns."""
        if not 0 <= self.freeze_layers <= self.layers:
            raise ValueError(f"freeze_layers must be in 0..{self.layers}, got {self.freeze_layers}")
        if self.freeze_layers:
            above: list[Any] = list(self.family.layers(self.model))[self.freeze_layers :]
            above.append(self.family.last_norm(self.model))
            kept = {
                id(parameter)
                for part in above
                if isinstance(part, nn.Module)
                for parameter in part.parameters()
            }
            for parameter in self.model.parameters():
                if id(parameter) not in kept:
                    parameter.requires_grad_(False)

    def _layer_at(
        self,
        number: int,
        parts: LayerParts,
        hidden_QH: Tensor,
        hidden_TH: Tensor,
        queries: _Queries,
        text: _Text,
        written: tuple[Tensor, ...],
        look: _Look | None = None,
    ) -> Tensor:
        """`_layer` with its own prompts; frozen layers leave no graph behind, prompts included."""

        def compute(hidden_QH: Tensor, hidden_TH: Tensor) -> Tensor:
            own = self._prompts_of(written, parts)
            return self._layer(parts, hidden_QH, hidden_TH, queries, text, own, look)

        if number < self.freeze_layers:
            with torch.no_grad():
                return compute(hidden_QH, hidden_TH)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            again: Tensor = checkpoint(
                compute, hidden_QH, hidden_TH, use_reentrant=False, preserve_rng_state=True
            )
            return again
        return compute(hidden_QH, hidden_TH)

    def _layer(
        self,
        parts: LayerParts,
        hidden_QH: Tensor,
        hidden_TH: Tensor,
        queries: _Queries,
        text: _Text,
        prompts: tuple[Tensor, Tensor] | None,
        look: _Look | None = None,
    ) -> Tensor:
        """One layer's output at packed positions (Q, H).

        Args:
            parts: of the layer.
            hidden_QH: what comes in at these positions.
            hidden_TH: what comes in at all text tokens, for keys and values.
            queries: these positions.
            text: all of the text.
            prompts: the layer's prompt keys and values (B, A, K, d) each, or None.
            look: told of queries and keys, where somebody observes.
        """
        if hidden_QH is hidden_TH:
            query_QH, key_TH, value_TH = parts.project(parts.read(hidden_TH))
        else:
            query_QH = parts.query(parts.read(hidden_QH))
            key_TH, value_TH = parts.key_value(parts.read(hidden_TH))
        if parts.rotation is not None:
            query_QH = self._rotate(query_QH, *queries.rotations[parts.rotation])
            key_TH = self._rotate(key_TH, *text.rotations[parts.rotation])
        if look is not None:
            look(parts, query_QH, key_TH, prompts)
        context_QH = self._attend(parts, query_QH, key_TH, value_TH, queries, text.groups, prompts)
        return parts.feed_forward(parts.join(context_QH, hidden_QH))

    def _attend(
        self,
        parts: LayerParts,
        query_QH: Tensor,
        key_TH: Tensor,
        value_TH: Tensor,
        queries: _Queries,
        groups: list[Group],
        prompts: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Context (Q, H) of packed queries, one group of rows after the other."""
        # split and not slices: the gradient of a split is written once.
        counts = [len(slots.at_T) for slots in queries.slots]
        query, columns = _parts(query_QH, counts), _parts(queries.column_Q, counts)
        tokens = [group.tokens for group in groups]
        keys, values = _parts(key_TH, tokens), _parts(value_TH, tokens)
        own: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(groups)
        if prompts is not None:
            rows = [group.rows for group in groups]
            own = list(zip(_parts(prompts[0], rows), _parts(prompts[1], rows), strict=True))
        contexts = []
        for number, (group, asking) in enumerate(zip(groups, queries.slots, strict=True)):
            context_BAQd = prompted_attention(
                self.kernel,
                self._heads(asking.spread(query[number])),
                self._heads(group.slots.spread(keys[number])),
                self._heads(group.slots.spread(values[number])),
                own[number],
                group.visible_to(
                    asking, columns[number], causal=self.family.causal, window=parts.window
                ),
                dropout=parts.attention_dropout if self.training else 0.0,
                scaling=self.head_size**-0.5 if parts.scaling is None else parts.scaling,
            )
            contexts.append(asking.gather(context_BAQd.transpose(1, 2).flatten(2)))
        return torch.cat(contexts)

    @torch.no_grad()
    def _look(
        self,
        observe: Observer,
        layer: int,
        text: Slots,
        front: int,
        queries: _Queries,
        packed: _Text,
        parts: LayerParts,
        query_TH: Tensor,
        key_TH: Tensor,
        prompts: tuple[Tensor, Tensor] | None,
    ) -> None:
        """Tell an observer what the packed tokens give to the prompts of one layer."""
        shares, indifferent, token, row = [], [], 0, 0
        for group in packed.groups:
            tokens, rows = slice(token, token + group.tokens), slice(row, row + group.rows)
            token, row = tokens.stop, rows.stop
            share_BNAK, indifferent_BN = prompt_shares(
                self._heads(group.slots.spread(query_TH[tokens])),
                self._heads(group.slots.spread(key_TH[tokens])),
                None if prompts is None else prompts[0][rows],
                group.visible_to(
                    group.slots,
                    queries.column_Q[tokens],
                    causal=self.family.causal,
                    window=parts.window,
                ),
                front=front,
                scaling=self.head_size**-0.5 if parts.scaling is None else parts.scaling,
            )
            shares.append(group.slots.gather(share_BNAK.flatten(2)))
            indifferent.append(group.slots.gather(indifferent_BN[..., None]))
        observe(
            PromptShares(
                layer=layer,
                share_BNAK=text.spread(torch.cat(shares))[:, front:].unflatten(2, (self.heads, -1)),
                indifferent_BN=text.spread(torch.cat(indifferent))[:, front:, 0],
            )
        )

    def _prompts_of(
        self, written: tuple[Tensor, ...], parts: LayerParts
    ) -> tuple[Tensor, Tensor] | None:
        """Prompt keys and values (B, A, K, d) of one layer; None where it has none.

        NOTE[DIFF]: prompts have no position: rotary families rotate the text's keys only.

        Args:
            written: for the layer: keys and values, or vectors (B, K, H), or nothing.
            parts: of the layer.
        """
        if len(written) == 2:
            return written[0], written[1]
        if written:
            key_BKH, value_BKH = parts.key_value(parts.read(written[0]))
            return self._heads(key_BKH), self._heads(value_BKH)
        return None

    def _rotate(self, x_TH: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
        """Rotary positions: component i of each head turns with component i + d/2."""
        x_TAd = x_TH.unflatten(1, (self.heads, self.head_size))
        first_TAc, second_TAc = x_TAd.chunk(2, dim=-1)
        turned_TAd = torch.cat((-second_TAc, first_TAc), dim=-1)
        # The angles keep their own precision, as bf16 would round them to three digits.
        rotated_TAd = x_TAd * cos_Td[:, None] + turned_TAd * sin_Td[:, None]
        return rotated_TAd.flatten(1).to(x_TH.dtype)

    def _heads(self, projected_BNH: Tensor) -> Tensor:
        """(B, N, A*d) -> (B, A, N, d)."""
        return projected_BNH.unflatten(2, (self.heads, self.head_size)).transpose(1, 2)

    def _check(self, token_ids_BN: Tensor, prompts: Prompts | None, front: int) -> None:
        batch, length = token_ids_BN.shape
        if front and self.freeze_layers:
            raise ValueError(
                "freeze_layers must be 0 with prompts in front of the text, which enter below the "
                f"first layer, got {self.freeze_layers}"
            )
        expected: tuple[int | str, ...]
        if length + front > self.position_limit:
            before = f" after {front} prompts" if front else ""
            raise ValueError(
                f"a text must have at most {self.position_limit - front} tokens (the PLM's "
                f"position limit{before}), got {length}"
            )
        if isinstance(prompts, KeyValuePrompts):
            for name, tensor in vars(prompts).items():
                expected = (batch, self.layers, self.heads, "K", self.head_size)
                _check_shape(name, tensor, "L, A, K, d", expected)
        elif isinstance(prompts, HiddenStatePrompts):
            expected = (batch, self.layers, "K", self.hidden_size)
            _check_shape("vector_BLKH", prompts.vector_BLKH, "L, K, H", expected)
        elif isinstance(prompts, InputPrompts):
            expected = (batch, "K", self.embedding_size)
            _check_shape("vector_BKE", prompts.vector_BKE, "K, E", expected)


def _parts(tensor: Tensor, counts: list[int]) -> Sequence[Tensor]:
    """The tensor split; as it is where there is one part, whose size a graph must not fix."""
    return tensor.split(counts) if len(counts) > 1 else (tensor,)


def _check_shape(name: str, tensor: Tensor, names: str, sizes: tuple[int | str, ...]) -> None:
    """Sizes that are names may be anything."""
    if len(tensor.shape) != len(sizes) or any(
        found != size
        for found, size in zip(tensor.shape, sizes, strict=True)
        if isinstance(size, int)
    ):
        expected = ", ".join(map(str, sizes))
        raise ValueError(
            f"{name} must have shape (B, {names}) = ({expected}), got {tuple(tensor.shape)}"
        )


def load_encoder(
    plm: PLMParameters, *, generator: torch.Generator | None = None
) -> PromptedEncoder:
    """Load the language model in float32, its weights checked, its first layers kept.

    Args:
        plm: source, layers to keep, dropout, attention kernel, position offset, what learns and
            how.
        generator: draws the adapters of ``plm.lora``; None: torch's own.

    Returns:
        The encoder, in training mode as a new module is.

    Raises:
        ValueError: the source cannot be resolved, its digest differs, its family is not
            supported, ``keep_layers`` or ``freeze_layers`` is out of range, weights are missing
            or damaged, or LoRA has nothing to adapt (see `clickprompt.plm.lora.add_lora`).
    """
    from transformers import AutoModel

    source = resolve_source(plm)
    config = encoder_config(plm)
    family = family_of(config.model_type)
    source.check_weights()
    model = source.load_model(AutoModel, config, "encoder", **family.load_options)
    return _prompted(model, plm, generator)


def encoder_config(plm: PLMParameters) -> Any:
    """Configuration of the language model as ``plm`` asks for it: layers kept, dropout.

    Raises:
        ValueError: as `load_encoder`, of everything but the weights.
    """
    source = resolve_source(plm)
    found = source.config()
    family = family_of(found.get("model_type"))
    config = source.model_config()
    _check_config(found, config, plm)
    with quiet_transformers():
        if plm.keep_layers is not None:
            config.num_hidden_layers = plm.keep_layers
            if getattr(config, "layer_types", None) is not None:  # one entry a layer
                config.layer_types = config.layer_types[: plm.keep_layers]
        if plm.dropout is not None:
            for name in family.dropouts:
                setattr(config, name, plm.dropout)
    return config


def build_encoder(config: Mapping[str, Any], plm: PLMParameters) -> PromptedEncoder:
    """The architecture alone, for weights that were trained: no file of the language model is read.

    Args:
        config: what `encoder_config` gave, as a dict.
        plm: attention kernel, position offset, what learns and how.
    """
    from transformers import AutoConfig, AutoModel

    settings = {name: value for name, value in config.items() if name != "model_type"}
    family = family_of(config["model_type"])
    with quiet_transformers():
        model = AutoModel.from_config(
            AutoConfig.for_model(config["model_type"], **settings), **family.load_options
        )
    return _prompted(model.float(), plm, None)


def _prompted(model: Any, plm: PLMParameters, generator: torch.Generator | None) -> PromptedEncoder:
    """The encoder around a language model, with its adapters."""
    family = family_of(model.config.model_type)
    if plm.lora is not None:
        add_lora(
            model,
            family,
            plm.lora,
            first_layer=plm.freeze_layers,
            generator=generator or torch.default_generator,
        )
    use_quick_dropout(model)
    return PromptedEncoder(
        model=model.train(),
        family=family,
        attention=plm.attention,
        position_offset=plm.position_offset,
        freeze_layers=plm.freeze_layers,
        gradient_checkpointing=plm.gradient_checkpointing,
    )


def _check_config(found: dict[str, Any], config: Any, plm: PLMParameters) -> None:
    layers = config.num_hidden_layers
    if plm.keep_layers is not None and not 1 <= plm.keep_layers <= layers:
        raise ValueError(f"plm.keep_layers must be in 1..{layers}, got {plm.keep_layers}")
    kept = plm.keep_layers or layers
    if plm.freeze_layers > kept:
        raise ValueError(f"plm.freeze_layers must be in 0..{kept}, got {plm.freeze_layers}")
    kind = found.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"the PLM's position_embedding_type must be 'absolute', got {kind!r}")
