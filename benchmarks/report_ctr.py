"""The sections of the results page on the CTR models' speed."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import grid, origin


def large_vocabulary_section(result: dict[str, Any]) -> str:
    """Time and memory of a step by the rows of the table."""
    cells = {(cell["rows"], cell["updates"]): cell for cell in result["cells"]}
    sizes = sorted({rows for rows, _ in cells})
    rows = []
    for size in sizes:
        lazy, dense = cells[size, "batch_rows"], cells[size, "all_rows"]
        rows.append(
            [
                f"{size:,}",
                f"{lazy['milliseconds']:.1f}",
                f"{dense['milliseconds']:.1f}",
                f"{dense['milliseconds'] / lazy['milliseconds']:.1f}",
                f"{lazy['table_milliseconds']:.1f}",
                f"{lazy['sparse_adam_milliseconds']:.1f}",
                f"{lazy['peak_memory_mb']:,}",
                f"{dense['peak_memory_mb']:,}",
            ]
        )
    return "\n\n".join(
        [
            "## A training step by the size of the vocabulary",
            "```sh\npython -m benchmarks large_vocabulary\n```",
            f"DeepFM with a linear term, batch {result['batch']:,}, {result['fields']} fields, "
            f"E = {result['embedding_size']}, float32, coupled L2; generated ids, uniform in each "
            "field. `embedding_updates: batch_rows` updates the rows of the batch, `all_rows` the "
            "whole table. The table's part is lookup, gradient and update of the one table, "
            f"without a model. Medians. {origin(result)}",
            grid(
                [
                    "rows of the table",
                    "ms a step, batch_rows",
                    "ms a step, all_rows",
                    "ratio",
                    "the table's part, ms",
                    "the same with torch's SparseAdam, ms",
                    "peak MiB, batch_rows",
                    "peak MiB, all_rows",
                ],
                rows,
            ),
        ]
    )
