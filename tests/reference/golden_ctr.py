"""Our parameters of a CTR model that tests/golden describes."""

from __future__ import annotations

import re
from typing import Any

from clickprompt.parameters import CTRParameters

ALIASES = {"ipnn": "pnn"}


def _numbers(value: Any) -> tuple[int, ...]:
    """2, "2|2", "2-2" or [2, 2] as integers."""
    return tuple(int(number) for number in re.findall(r"\d+", str(value)))


def ctr_parameters(
    name: str, about: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> CTRParameters:
    """Sizes of a case: from the shapes of its weights, else from its configuration."""

    def sizes(pattern: str, axis: int) -> tuple[int, ...]:
        found = {
            int(match[1]): shape[axis]
            for key, shape in shapes.items()
            if (match := re.fullmatch(pattern, key))
        }
        return tuple(found[number] for number in sorted(found))

    deep = sizes(r"(?:parallel_)?dnn\.dnn\.(\d+)\.weight", 0)
    heads = about.get("num_attn_heads", 1)
    changes: dict[str, Any] = {
        "embedding_size": shapes["embed.embedding.weight"][1],
        "hidden_sizes": deep,
        "linear": "lr_layer.bias" in shapes,
        "residual": about.get("res_conn", True),
    }
    if name == "fm":
        changes.pop("hidden_sizes")
    if name in ("dcn", "dcnv2"):
        changes["cross_layers"] = len(sizes(r"cross_net\.\w+\.(\d+)\.bias", 0))
    if name == "xdeepfm":
        changes["cin_sizes"] = sizes(r"cin\.cin_layer\.layer_(\d+)\.weight", 0)
    if name == "autoint":
        width = sizes(r"self_attention\.(\d+)\.W_q\.weight", 0)
        changes |= {
            "attention_layers": len(width),
            "attention_size": width[0] // heads,
            "attention_heads": heads,
            "attention_heads_layout": "memory",
            "attention_scale": about.get("attn_scale", False),
        }
    if name == "fignn":
        changes |= {
            "graph_layers": _graph_layers(about),
            "graph_shared": "fignn.gnn.W_in" in shapes,
        }
    if name == "fgcnn":
        convolution = r"fgcnn_layer\.conv_layers\.(\d+)\.0\.weight"
        inputs = sizes(r"fgcnn_layer\.recombine_layers\.(\d+)\.0\.weight", 1)
        outputs = sizes(r"fgcnn_layer\.recombine_layers\.(\d+)\.0\.weight", 0)
        channels = sizes(convolution, 0)
        changes |= {
            "fgcnn_channels": channels,
            "fgcnn_kernels": sizes(convolution, 2),
            "fgcnn_pooling": _numbers(about.get("pooling_sizes", (2,) * len(channels))),
            "fgcnn_recombined": tuple(
                channel * out // width
                for channel, out, width in zip(channels, outputs, inputs, strict=True)
            ),
        }
    return CTRParameters(name=name, **changes)


def _graph_layers(about: dict[str, Any]) -> int:
    """FiGNN's steps; a shared graph layer does not tell them."""
    if "num_hidden_layers" in about:
        return int(about["num_hidden_layers"])
    found = [
        value
        for name, value in about.items()
        if "layers" in name and isinstance(value, int) and not isinstance(value, bool) and value
    ]
    assert len(set(found)) == 1, f"the steps of FiGNN are not clear: {about}"
    return found[0]


def ctr_name(model: str) -> str:
    """Our name of the reference's model."""
    return ALIASES.get(model.lower(), model.lower())
