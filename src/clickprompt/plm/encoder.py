"""A language model that reads text together with one set of prompts per row and layer.

Letters: B batch, N text tokens, L layers, H hidden size, A heads, d = H/A, K prompts,
S selected positions, Q most selected positions of one row.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from clickprompt.parameters import PLMParameters
from clickprompt.plm.attention import (
    ATTENTION_PREFIX,
    KERNELS,
    prompted_attention,
    register_attention,
)
from clickprompt.plm.dropout import use_quick_dropout
from clickprompt.plm.families import Family, columns_in_rows, family_of
from clickprompt.plm.source import quiet_transformers, resolve_source

Positions = tuple[Tensor, Tensor]


class PromptedEncoder(nn.Module):
    """An encoder whose layers read prompts (section 4 of docs/method.md).

    NOTE[DIFF]: the reference shifts the text's position ids by K when there are prompts; here
    the text keeps its positions. ``position_offset=K`` gives the reference's numbers.

    Args:
        model: a transformers encoder, loaded with one of the ``clickprompt_*`` attentions.
        family: its entry in `clickprompt.plm.families.FAMILIES`.
        attention: which kernel the model was loaded with.
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
            The last layer's output (B, N, H); with ``all_layers`` a tuple of the outputs of
            layers 1 to L; with ``last_layer_at`` the last layer's output (S, H).

        Raises:
            ValueError: the text is longer than the position limit, the prompts have a wrong
                shape, or ``all_layers`` and ``last_layer_at`` are both asked for.
        """
        self._check(token_ids_BN, key_BLAKd, value_BLAKd)
        if all_layers and last_layer_at is not None:
            raise ValueError("last_layer_at must be None with all_layers, got both")
        # transformers and the fused kernels want no mask at all when nothing is padded.
        visible_B11N = None
        if mask_BN is not None and not bool(mask_BN.all()):
            visible_B11N = mask_BN.bool()[:, None, None, :]
        position_ids_1N = torch.arange(
            self._first_position,
            self._first_position + token_ids_BN.shape[1],
            device=token_ids_BN.device,
        )[None]
        hidden_BNH = self.family.embed(self.model, token_ids_BN, position_ids_1N)
        layers = self.family.layers(self.model)
        hiddens = []
        for layer in layers if last_layer_at is None else layers[:-1]:
            hidden_BNH = layer(
                hidden_BNH, visible_B11N, key_BLAKd=key_BLAKd, value_BLAKd=value_BLAKd
            )
            hiddens.append(hidden_BNH)
        if last_layer_at is not None:
            prompts = None
            if key_BLAKd is not None and value_BLAKd is not None:
                prompts = key_BLAKd[:, -1], value_BLAKd[:, -1]
            return self._layer_at(layers[-1], hidden_BNH, visible_B11N, prompts, last_layer_at)
        return tuple(hiddens) if all_layers else hidden_BNH

    def _layer_at(
        self,
        layer: nn.Module,
        hidden_BNH: Tensor,
        visible_B11N: Tensor | None,
        prompts: tuple[Tensor, Tensor] | None,
        at: Positions,
    ) -> Tensor:
        """One layer's output at selected positions: (S, H)."""
        parts = self.family.parts(layer)
        rows_S, columns_S = at
        batch, _, _ = hidden_BNH.shape
        slots_S, most = columns_in_rows(rows_S, batch)
        hidden_SH = hidden_BNH[rows_S, columns_S]
        query_SH = parts.query(hidden_SH)
        # Rows have different counts: queries stand in slots, empty slots are computed and left.
        query_BQH = query_SH.new_zeros((batch, most, self.hidden_size))
        query_BQH = query_BQH.index_put((rows_S, slots_S), query_SH)
        context_BAQd = prompted_attention(
            self.kernel,
            self._heads(query_BQH),
            self._heads(parts.key(hidden_BNH)),
            self._heads(parts.value(hidden_BNH)),
            prompts,
            visible_B11N,
            dropout=parts.attention_dropout if self.training else 0.0,
            scaling=self.head_size**-0.5,
        )
        context_SH = context_BAQd.transpose(1, 2)[rows_S, slots_S].flatten(1)
        return parts.feed_forward(parts.join(context_SH, hidden_SH))

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
    register_attention()
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
                attn_implementation=ATTENTION_PREFIX + plm.attention,
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
