"""Section of docs/results.md about trained models in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import grid, origin


def serving_section(result: Mapping[str, Any]) -> str:
    """Latency, throughput and load."""
    batches, single, text = result["without_plm"], result["single_row"], result["with_plm"]
    raw, load = result["raw_rows"], result["load"]
    kinds = [kind for kind in ("float32", "bf16") if kind in batches]
    share = text["share_of_the_encoders_rate"]
    return "\n\n".join(
        [
            "## Trained models in use",
            "```sh\npython -m benchmarks serving\n```",
            f"{result['ctr']['name']}, {result['threads']} threads; what is compared takes turns "
            f"in one process. {origin(result)}",
            grid(
                [
                    f"prepared ids, batches of {batches['batch']:,}",
                    "backbone, rows/s",
                    "without PLM, rows/s",
                    "ratio of the times (quartiles)",
                ],
                [
                    [
                        kind,
                        f"{batches[kind]['backbone_rows_per_second']:,}",
                        f"{batches[kind]['without_plm_rows_per_second']:,}",
                        _ratio(batches[kind]["ratio_of_seconds"]),
                    ]
                    for kind in kinds
                ],
            ),
            grid(
                ["one row", "p50, ms", "p95, ms", "p99, ms"],
                [
                    [name, *(f"{single[key][p]:g}" for p in ("p50_ms", "p95_ms", "p99_ms"))]
                    for key, name in (
                        ("backbone_onnx", "backbone, onnxruntime from ids"),
                        ("without_plm_onnx", "without PLM, onnxruntime from ids"),
                        ("raw_row", "without PLM, torch from the raw row"),
                    )
                ],
            ),
            f"With PLM, {text['rows']:,} rows of {text['mean_tokens']:g} tokens on average in "
            f"float32: {text['clickprompt_rows_per_second']:,} rows/s; the same encoder without "
            f"prompts and CTR model {text['encoder_rows_per_second']:,}, and as transformers runs "
            f"it {text['transformers_rows_per_second']:,}. Share of the encoder's rate: "
            f"{_ratio(share)}.",
            grid(
                ["raw rows", "rows/s", "conversion alone, rows/s"],
                [
                    [
                        name,
                        f"{raw[key]['whole_rows_per_second']:,}",
                        f"{raw[key]['conversion_rows_per_second']:,}",
                    ]
                    for key, name in (("without_plm", "without PLM"), ("with_plm", "with PLM"))
                ],
            ),
            f"`mlflow models serve` with PLM on loopback, {load['clients']} clients of one row "
            f"each, {load['seconds']:g} s: {load['requests']:,} requests "
            f"({load['requests_per_second']:g} a second), {load['errors']} errors, "
            f"{load['wrong_answers']} answers off by more than 1e-6; p50 {load['p50_ms']:g}, p95 "
            f"{load['p95_ms']:g}, p99 {load['p99_ms']:g} ms. Then "
            f"{load['malformed_requests']:,} malformed requests, {load['malformed_refused']:,} of "
            "them refused, and right answers after them (largest difference "
            f"{load['largest_difference_after']:.1g}).",
        ]
    )


def agreement_section(result: Mapping[str, Any]) -> str:
    """Whether all ways of scoring give the same answers."""
    served, onnx = result["served"], result["onnx"]
    return "\n\n".join(
        [
            "## The same answers everywhere",
            "```sh\npython -m benchmarks serving_agreement\n```",
            "Served: probabilities of `mlflow models serve`, in a new environment with the model's "
            "own requirements and nothing else, for all test rows as raw rows, against the file of "
            "`kedro run --pipeline=score`. ONNX: logits by onnxruntime against torch. "
            + origin(result),
            grid(
                ["model", "served rows", "largest difference", "packages there", "ONNX rows",
                 "largest difference"],
                [
                    [
                        f"`{name}`",
                        f"{served[name]['rows']:,}",
                        f"{served[name]['largest_difference']:.1e}",
                        f"{served[name]['packages']}, kedro "
                        + ("too" if served[name]["kedro_is_installed"] else "not among them"),
                        f"{onnx[name]['rows']:,}",
                        f"{onnx[name]['largest_difference']:.1e}",
                    ]
                    for name in served
                ],
            ),
        ]
    )  # fmt: skip


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['median']:.3f} ({found['quarter']:.3f} to {found['three_quarters']:.3f})"
