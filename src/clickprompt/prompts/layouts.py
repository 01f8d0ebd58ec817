"""What a prompt generator hands to a language model: one class for each layout.

Section 4 of docs/method.md. Letters: B batch, L layers, A heads, K prompts, d head size, H hidden
size, E size of the word embeddings (H in most families).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class KeyValuePrompts:
    """``key_value``: keys and values of every layer (the reference's layout).

    Attributes:
        key_BLAKd: keys.
        value_BLAKd: values.
    """

    key_BLAKd: Tensor
    value_BLAKd: Tensor


@dataclass(frozen=True)
class HiddenStatePrompts:
    """``hidden_state``: one vector a prompt and layer, projected by that layer (the paper's text).

    Attributes:
        vector_BLKH: vectors in the space of the hidden states.
    """

    vector_BLKH: Tensor


@dataclass(frozen=True)
class InputPrompts:
    """``input_only``: vectors in front of the word embeddings, then processed like tokens.

    Attributes:
        vector_BKE: vectors in the space of the word embeddings.
    """

    vector_BKE: Tensor


Prompts = KeyValuePrompts | HiddenStatePrompts | InputPrompts
