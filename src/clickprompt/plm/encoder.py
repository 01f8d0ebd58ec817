"""A language model that reads text together with one set of prompts per row and layer.

Letters: B batch, N text columns, T text tokens of all rows, L layers, H hidden size, A heads,
d = H/A, K prompts, S selected tokens.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from clickprompt.parameters import PLMParameters
from clickprompt.plm.attention import KERNELS, prompted_attention
from clickprompt.plm.dropout import use_quick_dropout
from clickprompt.plm.families import Family, LayerParts, family_of
from clickprompt.plm.slots import Group, Slots, row_groups, slots_in_rows, text_slots
from clickprompt.plm.source import quiet_transformers, resolve_source

Positions = tuple[Tensor, Tensor]

# Rows that attend in one rectangle on a CPU.
ROWS_OF_GROUP = 64


class PromptedEncoder(nn.Module):
    """An encoder whose layers read prompts (section 4 of docs/method.md).

    NOTE[DIFF]: the reference shifts the text's position ids by K when there are prompts; here
    the text keeps its positions. ``position_offset=K`` gives the reference's numbers.

    Args:
        model: a transformers encoder; its layers' parts are used, their attention is not.
        family: its entry in `clickprompt.plm.families.FAMILIES`.
        attention: which kernel attends (`clickprompt.plm.attention`).
        position_offset: added to the position id of every token.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        family: Family,
        attention: Literal["auto", "sdpa", "matmul"] = "auto",
        position_offset: int = 0,
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
        self.position_limit: int = family.positions(config) - position_offset
        self._first_position = family.first_position(config) + position_offset

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
        key_BLAKd: Tensor | None = None,
        value_BLAKd: Tensor | None = None,
        *,
        all_layers: Literal[False] = False,
        last_layer_at: Positions | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        key_BLAKd: Tensor | None = None,
        value_BLAKd: Tensor | None = None,
        *,
        all_layers: Literal[True],
        last_layer_at: None = None,
    ) -> tuple[Tensor, ...]: ...

    def forward(
        self,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        key_BLAKd: Tensor | None = None,
        value_BLAKd: Tensor | None = None,
        *,
        all_layers: bool = False,
        last_layer_at: Positions | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Hidden states of the text.

        Everything but attention itself is computed for the text tokens alone (packed one after
        the other), so padding costs next to nothing.

        Args:
            token_ids_BN: token ids, special tokens included, padded on the right.
            mask_BN: bool, True at text tokens; None when no row is padded.
            key_BLAKd: prompt keys of every layer, or None for the plain encoder.
            value_BLAKd: prompt values of every layer.
            all_layers: give the output of every layer, not only the last.
            last_layer_at: rows (S,) and columns (S,): the last layer computes its queries,
                its output projection and its feed-forward part at these positions only.
                The numbers are those of the full forward, for a fraction of the work.

        Returns:
            The last layer's output (B, N, H), without meaning at padding; with ``all_layers`` a
            tuple of the outputs of layers 1 to L; with ``last_layer_at`` the last layer's output
            (S, H).

        Raises:
            ValueError: the text is longer than the position limit, the prompts have a wrong
                shape, or ``all_layers`` and ``last_layer_at`` are both asked for.
        """
        self._check(token_ids_BN, key_BLAKd, value_BLAKd)
        if all_layers and last_layer_at is not None:
            raise ValueError("last_layer_at must be None with all_layers, got both")
        batch, width = token_ids_BN.shape
        if mask_BN is None:
            mask_BN = torch.ones_like(token_ids_BN, dtype=torch.bool)
        mask_BN = mask_BN.bool()
        text = text_slots(mask_BN)
        # On a GPU each group would cost more launches than its padding does.
        groups = row_groups(text, mask_BN, ROWS_OF_GROUP if mask_BN.device.type == "cpu" else batch)
        hidden_TH = self.family.embed(
            self.model,
            token_ids_BN.flatten()[text.at_T][None],
            (text.at_T % width + self._first_position)[None],
        )[0]
        prompts: list[tuple[Tensor, Tensor] | None] = [None] * self.layers
        if key_BLAKd is not None and value_BLAKd is not None:
            prompts = list(zip(key_BLAKd.unbind(1), value_BLAKd.unbind(1), strict=True))
        layers = self.family.layers(self.model)
        hiddens = []
        for layer, own in zip(
            layers if last_layer_at is None else layers[:-1], prompts, strict=False
        ):
            parts = self.family.parts(layer)
            query_TH = parts.query(hidden_TH)
            asking = [group.slots for group in groups]
            context_TH = self._attend(parts, asking, query_TH, groups, hidden_TH, own)
            hidden_TH = parts.feed_forward(parts.join(context_TH, hidden_TH))
            if all_layers:
                hiddens.append(text.spread(hidden_TH))
        if last_layer_at is None:
            return tuple(hiddens) if all_layers else text.spread(hidden_TH)

        parts = self.family.parts(layers[-1])
        rows_S, columns_S = last_layer_at
        order_S = torch.argsort(rows_S, stable=True)  # groups need the order of the rows
        rows_S, columns_S = rows_S[order_S], columns_S[order_S]
        number_P = torch.empty(batch * width, dtype=torch.int64, device=mask_BN.device)
        number_P[text.at_T] = torch.arange(len(text.at_T), device=mask_BN.device)
        hidden_SH = hidden_TH.index_select(0, number_P[rows_S * width + columns_S])
        asking, first = [], 0
        for group in groups:
            inside_S = (rows_S >= first) & (rows_S < first + group.rows)
            asking.append(slots_in_rows(rows_S[inside_S] - first, group.rows))
            first += group.rows
        query_SH = parts.query(hidden_SH)
        context_SH = self._attend(parts, asking, query_SH, groups, hidden_TH, prompts[-1])
        hidden_SH = parts.feed_forward(parts.join(context_SH, hidden_SH))
        return hidden_SH.index_select(0, torch.argsort(order_S))

    def _attend(
        self,
        parts: LayerParts,
        asking: list[Slots],
        query_QH: Tensor,
        groups: list[Group],
        hidden_TH: Tensor,
        prompts: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Context (Q, H) of packed queries, one group of rows after the other.

        Args:
            parts: of the layer.
            asking: slots of each group's queries.
            query_QH: the queries of all groups.
            groups: rows, and slots of their text.
            hidden_TH: what the layer reads, for keys and values.
            prompts: the layer's prompt keys and values (B, A, K, d) each, or None.
        """
        # split and not slices: the gradient of a split is written once.
        queries = query_QH.split([len(slots.at_T) for slots in asking])
        keys = parts.key(hidden_TH).split([group.tokens for group in groups])
        values = parts.value(hidden_TH).split([group.tokens for group in groups])
        own: list[tuple[Tensor, Tensor] | None] = [None] * len(groups)
        if prompts is not None:
            rows = [group.rows for group in groups]
            own = list(zip(prompts[0].split(rows), prompts[1].split(rows), strict=True))
        contexts = []
        for number, group in enumerate(groups):
            context_BAQd = prompted_attention(
                self.kernel,
                self._heads(asking[number].spread(queries[number])),
                self._heads(group.slots.spread(keys[number])),
                self._heads(group.slots.spread(values[number])),
                own[number],
                group.visible_B11N,
                dropout=parts.attention_dropout if self.training else 0.0,
                scaling=self.head_size**-0.5,
            )
            contexts.append(asking[number].gather(context_BAQd.transpose(1, 2).flatten(2)))
        return torch.cat(contexts)

    def _heads(self, projected_BNH: Tensor) -> Tensor:
        """(B, N, A*d) -> (B, A, N, d)."""
        return projected_BNH.unflatten(2, (self.heads, self.head_size)).transpose(1, 2)

    def _check(
        self, token_ids_BN: Tensor, key_BLAKd: Tensor | None, value_BLAKd: Tensor | None
    ) -> None:
        batch, length = token_ids_BN.shape
        if length > self.position_limit:
            raise ValueError(
                f"a text must have at most {self.position_limit} tokens (the PLM's position "
                f"limit), got {length}"
            )
        if (key_BLAKd is None) != (value_BLAKd is None):
            raise ValueError("key_BLAKd and value_BLAKd must be given together, got one of them")
        for name, prompts in (("key_BLAKd", key_BLAKd), ("value_BLAKd", value_BLAKd)):
            if prompts is None:
                continue
            expected = (batch, self.layers, self.heads, prompts.shape[-2], self.head_size)
            if tuple(prompts.shape) != expected:
                raise ValueError(
                    f"{name} must have shape (B, L, A, K, d) = ({batch}, {self.layers}, "
                    f"{self.heads}, K, {self.head_size}), got {tuple(prompts.shape)}"
                )


def load_encoder(plm: PLMParameters, *, position_offset: int = 0) -> PromptedEncoder:
    """Load the language model in float32, its weights checked, its first layers kept.

    Args:
        plm: source, layers to keep, dropout, attention kernel.
        position_offset: see `PromptedEncoder`.

    Returns:
        The encoder, in training mode as a new module is.

    Raises:
        ValueError: the source cannot be resolved, its digest differs, its family is not
            supported, ``keep_layers`` is out of range, or weights are missing or damaged.
    """
    from transformers import AutoConfig, AutoModel

    source = resolve_source(plm)
    found = source.config()
    family = family_of(found.get("model_type"))
    _check_config(found, plm)
    source.check_weights()
    with quiet_transformers():
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        if plm.keep_layers is not None:
            config.num_hidden_layers = plm.keep_layers
        if plm.dropout is not None:
            config.hidden_dropout_prob = plm.dropout
            config.attention_probs_dropout_prob = plm.dropout
        try:
            model, report = AutoModel.from_pretrained(
                source.folder,
                config=config,
                add_pooling_layer=False,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # safetensors and transformers raise many kinds
            raise ValueError(
                f"plm.source must hold readable weights, got {source.folder}: {error}"
            ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"plm.source must hold all weights of its encoder, got {source.folder} without "
            f"{missing[0]} ({len(missing)} missing)"
        )
    use_quick_dropout(model)
    return PromptedEncoder(
        model=model.train(),
        family=family,
        attention=plm.attention,
        position_offset=position_offset,
    )


def _check_config(found: dict[str, Any], plm: PLMParameters) -> None:
    layers = found["num_hidden_layers"]
    if plm.keep_layers is not None and not 1 <= plm.keep_layers <= layers:
        raise ValueError(f"plm.keep_layers must be in 1..{layers}, got {plm.keep_layers}")
    kind = found.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"the PLM's position_embedding_type must be 'absolute', got {kind!r}")
