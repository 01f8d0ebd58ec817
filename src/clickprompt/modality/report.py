"""The data report: what was read, what became of it, and what the models will see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from clickprompt.modality.arrays import chunks, read_rows
from clickprompt.modality.model_input import ModelInput
from clickprompt.modality.samples import SPLITS, SplitName
from clickprompt.modality.vocabulary import OUT_OF_VOCABULARY

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def build_data_report(
    read_report: Mapping[str, Any],
    model_input: ModelInput,
    filter_report: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put the reader's report and the facts of the model input together.

    Args:
        read_report: ``ReadResult.report``.
        model_input: what was made of the rows that were kept.
        filter_report: what ``filter_interactions`` returned; None where it was not called.

    Returns:
        Plain JSON values:

        - ``rows``: ``read``, ``kept`` by the reader, ``filtered_out`` (users or items with too few
          rows), ``labelled`` and ``between_labels`` (the rest, neither positive nor negative);
        - ``dropped``, ``repaired``, ``skipped``: reason -> count;
        - ``splits``: for each split ``rows``, ``positive``, ``label_rate``, ``cold_user_rows`` and
          ``cold_item_rows`` (user or item without train rows), ``truncated``;
        - ``fields``: ``name``, ``column``, ``vocabulary`` (values, without row 0) and
          ``out_of_vocabulary``: split -> share of rows;
        - ``tokens``: per sample, special ones included and after truncation: ``mean``, ``median``,
          ``percentile_99``, ``longest``, ``limit``, ``histogram`` (length -> samples);
        - ``pieces``, ``active_tokens``, ``vocabulary_size``, ``digest``.
    """
    labelled = len(model_input.labels)
    filtered_out = filter_report["rows_removed"] if filter_report else 0
    lengths = model_input.text_lengths()
    counts = np.bincount(lengths)
    metadata = model_input.metadata
    return {
        "rows": {
            "read": read_report["rows_read"],
            "kept": read_report["rows_kept"],
            "filtered_out": filtered_out,
            "labelled": labelled,
            "between_labels": read_report["rows_kept"] - filtered_out - labelled,
        },
        **{kind: dict(read_report[kind]) for kind in ("dropped", "repaired", "skipped")},
        "splits": {split: _split_facts(model_input, split) for split in SPLITS},
        "fields": _field_facts(model_input),
        "tokens": {
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "percentile_99": float(np.percentile(lengths, 99)),
            "longest": int(lengths.max()),
            "limit": model_input.max_tokens,
            "histogram": {str(n): int(counts[n]) for n in np.flatnonzero(counts)},
        },
        "pieces": metadata["pieces"],
        "active_tokens": len(model_input.active_tokens),
        "vocabulary_size": metadata["vocabulary_size"],
        "digest": model_input.digest,
    }


def plot_data_report(report: Mapping[str, Any]) -> Figure:
    """Four panels: fate of the rows, splits by label, unseen values per field, text lengths."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            "Rows read, and what became of them",
            "Samples per split",
            "Rows with a value unseen in train",
            "Tokens per sample",
        ),
        vertical_spacing=0.16,
    )
    rows = report["rows"]
    fate = {"labelled": rows["labelled"], "between the labels": rows["between_labels"]}
    if rows["filtered_out"]:
        fate["too few rows of user or item"] = rows["filtered_out"]
    fate |= {reason.replace("_", " "): count for reason, count in report["dropped"].items()}
    figure.add_bar(
        x=list(fate.values()),
        y=list(fate),
        orientation="h",
        text=[f"{count:,}" for count in fate.values()],
        showlegend=False,
        row=1,
        col=1,
    )
    splits = report["splits"]
    negative = [splits[s]["rows"] - splits[s]["positive"] for s in SPLITS]
    positive = [splits[s]["positive"] for s in SPLITS]
    for name, values in (("label 0", negative), ("label 1", positive)):
        figure.add_bar(x=list(SPLITS), y=values, name=name, offsetgroup="label", row=1, col=2)
    names = [field["name"] for field in report["fields"]]
    for split in SPLITS[1:]:
        shares = [field["out_of_vocabulary"][split] for field in report["fields"]]
        figure.add_bar(x=names, y=shares, name=split, offsetgroup=split, row=2, col=1)
    histogram = report["tokens"]["histogram"]
    figure.add_bar(
        x=[int(length) for length in histogram],
        y=list(histogram.values()),
        showlegend=False,
        row=2,
        col=2,
    )
    # offset groups stand side by side; the two labels share one group and are stacked
    figure.update_layout(barmode="relative", height=800, title="Data report")
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(title="rows", row=1, col=2)
    figure.update_yaxes(title="share of rows", tickformat=".1%", row=2, col=1)
    figure.update_xaxes(title="tokens, special ones included", row=2, col=2)
    figure.update_yaxes(title="samples", row=2, col=2)
    return figure


def _split_facts(model_input: ModelInput, split: SplitName) -> dict[str, Any]:
    part = model_input.rows(split)
    labels = model_input.labels[part]
    return {
        "rows": len(labels),
        "positive": int(labels.sum(dtype=np.int64)),
        "label_rate": float(labels.mean()),
        "cold_user_rows": int((model_input.user_train_rows[part] == 0).sum()),
        "cold_item_rows": int((model_input.item_train_rows[part] == 0).sum()),
        "truncated": model_input.metadata["truncated"][split],
    }


def _field_facts(model_input: ModelInput) -> list[dict[str, Any]]:
    described = model_input.metadata["fields"]
    ends = np.cumsum(model_input.metadata["split_rows"])
    unseen = np.zeros((len(SPLITS), len(described)), dtype=np.int64)
    for part in chunks(len(model_input.ids)):
        ids = read_rows(model_input.ids, part)
        for field, members in model_input.bags.items():
            ids[:, field] = members[ids[:, field], 0]  # the known ones of a bag stand first
        out = ids == OUT_OF_VOCABULARY
        for split, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            unseen[split] += out[max(start - part.start, 0) : max(stop - part.start, 0)].sum(axis=0)
    shares = unseen / np.array(model_input.metadata["split_rows"])[:, None]
    return [
        {
            "name": described[field]["name"],
            "column": described[field]["column"],
            "vocabulary": model_input.field_sizes[field] - 1,
            "out_of_vocabulary": dict(zip(SPLITS, map(float, shares[:, field]), strict=True)),
        }
        for field in range(len(described))
    ]
