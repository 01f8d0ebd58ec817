"""The sections of the results page on the speed, cost and precision of the CTR models."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import grid, origin
from benchmarks.report_backbones import NAMES

MODELS = {"deepfm": "DeepFM", "dcnv2": "DCNv2", "autoint": "AutoInt", "xdeepfm": "xDeepFM"}
LIBRARIES = {
    "ours": "ours",
    "fuxictr": "FuxiCTR",
    "recbole": "RecBole",
    "deepctr": "DeepCTR-Torch",
}
PHASES = {"train": "training", "predict": "inference"}
IMPORTS = {"seconds": "without", "wall_seconds": "with"}
PACKAGES = {"fuxictr": "fuxictr", "recbole": "recbole", "deepctr": "deepctr-torch"}
# why the parameters of the models differ, by what their code defines
DIFFERENCES = (
    "Parameters differ by what the libraries define. Tables: ours has an out-of-vocabulary row a "
    "field, FuxiCTR that and a padding row, both for the values of train; RecBole has a padding "
    "row, DeepCTR-Torch none, both for the values of all rows. DeepFM and xDeepFM have a linear "
    "term everywhere, RecBole gives one to AutoInt and DCNv2 too. RecBole's AutoInt has biases and "
    "projections around the attention, its DCNv2 batch norm; DeepCTR-Torch's AutoInt projects its "
    "residuals. Some add up two outputs, each with a bias, or have no bias there."
)


def speed_section(result: dict[str, Any]) -> str:
    """Rows per second of training and inference, and the ratios."""
    cells = result["cells"]
    rates = result["matmul_gflops"]
    train, valid, test = result["split_rows"]
    return "\n\n".join(
        [
            "## CTR models against other libraries",
            "```sh\npython -m benchmarks.ctr_speed\n```",
            f"{result['rows']:,} generated rows with 8 fields, as in MovieLens-1M; embedding 32, "
            f"deep part 3 x 256, 3 cross or attention layers, CIN 25-25-25, Adam, batch "
            f"{result['batch']}. Each library in its own environment and process, with its own "
            f"loader, loop and best setting (`benchmarks/peers` names them with their "
            f"sources); {result['repeats']} turns of some seconds each, the quickest counts. "
            f"Training is of {train:,} rows without validation, inference of {valid + test:,}. "
            f"Ours is the training loop of the stages. {_versions(result)} {origin(result)}",
            f"Matrix products of 2048 x 2048 here: {rates['float32']:g} GFLOP/s in float32, "
            f"{rates['bf16']:g} in bf16. Rows per second:",
            *(_rates(cells, phase) for phase in PHASES),
            "How many times as quick ours is, by the precision of both sides:",
            _ratios(result["ratios"]),
            "Parameters, embedding table + rest:",
            grid(
                ["side", *(_model(model) for model in result["models"])],
                [
                    [_side(side), *(_parameters(cells, side, model) for model in result["models"])]
                    for side in dict.fromkeys(cell["side"] for cell in cells)
                    if side.endswith("float32")
                ],
            ),
            DIFFERENCES,
        ]
    )


def raw_section(result: dict[str, Any]) -> str:
    """Seconds from raw CSV to a trained model."""
    rows = [
        [
            _side(entry["side"]),
            f"{entry['seconds']:.1f}",
            f"{entry['wall_seconds']:.1f}",
            f"{entry['valid_auc']:.4f}",
        ]
        for entry in result["entries"]
    ]
    said = "; ".join(
        f"{_side(entry['ours'])}, {IMPORTS[entry['of']]} imports: "
        f"{entry['ratio']:.2f} times as quick as {_side(entry['fastest'])}"
        for entry in result["ratios"]
    )
    return "\n\n".join(
        [
            "## From raw CSV to a trained CTR model",
            "```sh\npython -m benchmarks.ctr_raw\n```",
            f"{result['rows']:,} generated rows, {_model(result['model'])}, one epoch of batches "
            f"of 1024 and one validation; the quickest of {result['repeats']} runs in turns. Ours "
            "also writes and tokenises the text view, which the others do not have. "
            f"{origin(result)}",
            grid(["side", "seconds without imports", "of the whole process", "valid AUC"], rows),
            f"{said}.",
        ]
    )


def cost_section(result: dict[str, Any]) -> str:
    """Parameters, memory and time of the ten models."""
    rows = [
        [
            NAMES[cell["model"]],
            cell["precision"],
            f"{cell['parameters']['table']:,} + {cell['parameters']['rest']:,}",
            f"{cell['memory_mb']:,}",
            f"{cell['epoch_seconds']:.1f}",
            f"{cell['train_rows_per_second']:,}",
            f"{cell['predict_rows_per_second']:,}",
        ]
        for cell in result["cells"]
    ]
    return "\n\n".join(
        [
            "## Cost of the CTR models",
            "```sh\npython -m benchmarks.ctr_cost\n```",
            f"The rows and sizes of the comparison above ({result['split_rows'][0]:,} train rows, "
            f"batch {result['batch']}), sizes of the other models as in `conf/base` with embedding "
            "32. Memory is what the process grows by: weights, gradients, Adam's moments, "
            "activations. Seconds of an epoch are extrapolated from some seconds of steps and "
            f"leave validation out. {origin(result)}",
            grid(
                [
                    "model",
                    "precision",
                    "table + other parameters",
                    "MiB",
                    "seconds an epoch",
                    "rows/s, training",
                    "rows/s, inference",
                ],
                rows,
            ),
        ]
    )


def precision_section(result: dict[str, Any]) -> str:
    """Test AUC in float32 and bf16."""
    rows = [
        [
            _model(entry["model"]),
            f"{entry['auc_float32']:.5f}",
            f"{entry['auc_bf16']:.5f}",
            f"{entry['difference']:+.5f}",
            "{:+.5f} to {:+.5f}".format(*entry["interval"]),
            "yes" if entry["within_tolerance"] else "no",
        ]
        for entry in result["models"]
    ]
    return "\n\n".join(
        [
            "## bf16 against float32",
            "```sh\npython -m benchmarks.precision\n```",
            f"Test AUC of the backbones on the embedded data, means of {result['seeds']} seeds "
            "with the settings of `conf/base`; the difference is paired by seed, with its 95 % "
            f"interval. {origin(result)}",
            grid(
                [
                    "model",
                    "float32",
                    "bf16",
                    "difference",
                    "interval",
                    f"within {result['tolerance']:g}",
                ],
                rows,
            ),
        ]
    )


def _versions(result: dict[str, Any]) -> str:
    versions = result["versions"]
    named = [f"{LIBRARIES[name]} {versions[name][PACKAGES[name]]}" for name in PACKAGES]
    return f"{', '.join(named)}, torch {versions['ours']['torch']}."


def _rates(cells: list[dict[str, Any]], phase: str) -> str:
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    rate = {(cell["side"], cell["model"]): cell[f"{phase}_rows_per_second"] for cell in cells}
    return grid(
        [PHASES[phase], *(_model(model) for model in models)],
        [
            [_side(side), *(f"{rate[side, model]:,}" for model in models)]
            for side in dict.fromkeys(cell["side"] for cell in cells)
        ],
    )


def _ratios(ratios: list[dict[str, Any]]) -> str:
    models = list(dict.fromkeys(entry["model"] for entry in ratios))
    found = {(e["phase"], e["ours"], e["against"], e["model"]): e for e in ratios}
    rows = []
    for phase, ours, against in dict.fromkeys(key[:3] for key in found):
        entries = [found[phase, ours, against, model] for model in models]
        shown = [f"{entry['ratio']:.2f} ({_side(entry['fastest'])})" for entry in entries]
        rows.append([f"{PHASES[phase]}, ours {ours} / fastest in {against}", *shown])
    return grid(["ratio (against)", *(_model(model) for model in models)], rows)


def _parameters(cells: list[dict[str, Any]], side: str, model: str) -> str:
    (cell,) = (cell for cell in cells if (cell["side"], cell["model"]) == (side, model))
    return f"{cell['parameters']['table']:,} + {cell['parameters']['rest']:,}"


def _side(side: str) -> str:
    name, precision = side.split()
    return f"{LIBRARIES[name]}, {precision}"


def _model(model: str) -> str:
    return MODELS[model]
