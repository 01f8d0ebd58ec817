"""The authors' names of our parameters (tests/golden/README.md); the twins use them too."""

from __future__ import annotations

import re
from collections.abc import Callable

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

DEEP: Rule = (r"deep\.layers\.(\d+)\.", lambda m: f"dnn.dnn.{int(m[1]) // 2 * 3}.")
PARALLEL: Rule = (r"deep\.layers\.(\d+)\.", lambda m: f"parallel_dnn.dnn.{int(m[1]) // 2 * 3}.")
TABLE: Rule = (r"^embedding\.", "embed.embedding.")
LINEAR: Rule = (r"^linear\.(?:(embedding)\.)?", lambda m: f"lr_layer.{'embed_w.' if m[1] else ''}")
HEAD: Rule = (r"^head\.", "fc_out.")

RULES: dict[str, list[Rule]] = {
    "fm": [TABLE, LINEAR],
    "dnn": [TABLE, DEEP, HEAD],
    "deepfm": [TABLE, DEEP, HEAD, LINEAR],
    "xdeepfm": [
        TABLE,
        DEEP,
        HEAD,
        LINEAR,  # there is none in the reference; for the twin
        (r"^cin\.layers\.(\d+)\.", lambda m: f"cin.cin_layer.layer_{int(m[1]) + 1}."),
    ],
    "pnn": [TABLE, DEEP, HEAD],
    "dcn": [
        TABLE,
        PARALLEL,
        HEAD,
        (r"^cross\.(\d+)\.weight", r"cross_net.cross_net.\1.weight.weight"),
        (r"^cross\.(\d+)\.bias", r"cross_net.cross_net.\1.bias"),
    ],
    "autoint": [
        TABLE,
        DEEP,
        HEAD,
        (r"^attention\.", "self_attention."),
        (r"\.query\.", ".W_q."),
        (r"\.key\.", ".W_k."),
        (r"\.value\.", ".W_v."),
        (r"\.project\.", ".W_res."),
    ],
    "fignn": [
        TABLE,
        (r"^head\.score\.", "fc_out.linear1."),
        (r"^head\.weight\.", "fc_out.linear2.0."),
        (r"^edge\.", "fignn.W_attn."),
        (r"^graph\.", "fignn.gnn."),
        (r"\.weight_in$", ".W_in"),
        (r"\.weight_out$", ".W_out"),
        (r"^(fignn\.gnn\.\d+)\.bias$", r"\1.bias_p"),
        (r"^gru\.input\.(\w+)", r"fignn.gru.\1_ih"),
        (r"^gru\.hidden\.(\w+)", r"fignn.gru.\1_hh"),
    ],
    "fgcnn": [
        TABLE,
        DEEP,
        HEAD,
        (r"^convolution_embedding\.", "fg_embed.embedding."),
        (r"^generators\.(\d+)\.convolution\.", r"fgcnn_layer.conv_layers.\1.0."),
        (r"^generators\.(\d+)\.norm\.", r"fgcnn_layer.conv_layers.\1.1."),
        (r"^generators\.(\d+)\.recombine\.", r"fgcnn_layer.recombine_layers.\1.0."),
    ],
    "dcnv2": [TABLE, PARALLEL, HEAD, (r"^cross\.", "cross_net.cross_layers.")],
}


def reference_name(model: str, name: str, *, shared: bool = False) -> str:
    """The authors' name of our parameter ``name``; ``shared``: FiGNN's one graph layer."""
    for pattern, replacement in RULES[model]:
        name = re.sub(pattern, replacement, name)
    return name.replace("fignn.gnn.0.", "fignn.gnn.") if shared else name
