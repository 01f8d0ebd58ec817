"""Tables of a study, as Markdown and LaTeX, from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickprompt.progress import clock
from clickprompt.studies.summary import ANY, Summary

METRIC_NAMES = {"auc": "AUC", "log_loss": "LogLoss"}
LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "–": "--", "−": "$-$"}


@dataclass(frozen=True)
class StudyTable:
    """Headings and texts.

    Attributes:
        title: of the table.
        headings: of its columns.
        rows: texts, one for each heading.
        words: number of columns from the left that are no numbers.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int

    def markdown(self) -> str:
        """The table alone."""
        rule = ["---" if n < self.words else "---:" for n in range(len(self.headings))]
        lines = [self.headings, rule, *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        r"""A ``table`` for ``\usepackage{booktabs}``."""
        columns = "l" * self.words + "r" * (len(self.headings) - self.words)
        body = [" & ".join(map(_latex, line)) + r" \\" for line in self.rows]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(self.title)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                " & ".join(map(_latex, self.headings)) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def study_tables(summary: Summary) -> dict[str, StudyTable]:
    """``results``, ``comparisons``, and ``pooled``, ``long_tail``, ``tail_contrasts`` if any."""
    tables = {"results": _results(summary), "comparisons": _comparisons(summary)}
    if summary.get("pooled"):  # absent from summaries of earlier versions
        tables["pooled"] = _pooled(summary)
    if summary["long_tail"]:
        tables["long_tail"] = _long_tail(summary)
    if summary["tail_contrasts"]:
        tables["tail_contrasts"] = _tail_contrasts(summary)
    return {name: table for name, table in tables.items() if table.rows}


def row_name(labels: Mapping[str, str]) -> str:
    """Labels in one text, without those that say nothing."""
    return " ".join(value for value in labels.values() if value != ANY) or ANY


def p_text(value: float | None) -> str:
    """A p-value in a few characters."""
    if value is None:
        return ""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _results(summary: Summary) -> StudyTable:
    axes = list(summary["axes"])
    rows = []
    for row in summary["rows"]:
        if row["auc"] is None:
            continue
        rate = row["scored_rows_per_second"]
        rows.append(
            (
                *row["labels"].values(),
                str(len(row["seeds"])),
                _mean(row, "auc"),
                _percent(row["auc_improvement"]),
                _mean(row, "log_loss"),
                _percent(row["log_loss_improvement"]),
                clock(row["seconds"]),
                f"{row['parameters']:,}",
                "" if rate is None else f"{rate:,.0f}",
            )
        )
    place = summary["compare_with"][0]
    reference = ", ".join(f"{axis} {value}" for axis, value in place.items())
    return StudyTable(
        f"Test metrics, mean ± deviation over seeds; gain: relative improvement over {reference}",
        (
            *axes,
            "seeds",
            "AUC",
            "AUC gain",
            "LogLoss",
            "LogLoss gain",
            "training",
            "parameters",
            "rows/s",
        ),
        tuple(rows),
        len(axes),
    )


def _comparisons(summary: Summary) -> StudyTable:
    rows = []
    for entry in summary["comparisons"]:
        basis = entry["verdict"] + (" (rows)" if entry["basis"] == "rows" else "")
        rows.append(
            (
                row_name(entry["labels"]),
                row_name(entry["with"]),
                METRIC_NAMES[entry["metric"]],
                str(len(entry["seeds"])),
                f"{entry['difference']:+.4f}",
                _interval(entry),
                p_text(entry["p_value"]),
                p_text(entry["p_value_holm"]),
                p_text(entry["row_p_value_holm"]),
                basis,
            )
        )
    return StudyTable(
        "Differences, and whether they are shown: paired t-test over seeds, Holm's correction over "
        "the comparisons of a metric; rows: DeLong or bootstrap on the test rows, corrected too",
        (
            "model",
            "against",
            "metric",
            "seeds",
            "difference",
            "95 % interval",
            "p",
            "p (Holm)",
            "p rows (Holm)",
            "verdict",
        ),
        tuple(rows),
        3,
    )


def _pooled(summary: Summary) -> StudyTable:
    rows = [
        (
            row_name(entry["labels"]),
            row_name(entry["with"]),
            ", ".join(entry["over"]),
            METRIC_NAMES[entry["metric"]],
            str(entry["pairs"]),
            f"{entry['difference']:+.4f}",
            _interval(entry),
            p_text(entry["p_value"]),
            p_text(entry["p_value_holm"]),
            entry["verdict"],
        )
        for entry in summary["pooled"]
    ]
    return StudyTable(
        "The same differences over all values of another axis: paired t-test over its pairs of "
        "trainings, Holm's correction over this table's comparisons of a metric",
        (
            "model",
            "against",
            "over all",
            "metric",
            "pairs",
            "difference",
            "95 % interval",
            "p",
            "p (Holm)",
            "verdict",
        ),
        tuple(rows),
        4,
    )


def _long_tail(summary: Summary) -> StudyTable:
    rows = []
    for entry in summary["long_tail"]:
        gain = entry["auc_difference"]
        rows.append(
            (
                row_name(entry["labels"]),
                entry["user"] or ANY,
                entry["item"] or ANY,
                f"{entry['rows']:,}",
                _mean(entry, "auc"),
                "" if gain is None else f"{gain:+.4f}",
                _interval(entry, "auc_"),
                _mean(entry, "log_loss"),
            )
        )
    return StudyTable(
        "Test metrics on tail and non-tail users and items; difference: in AUC",
        ("model", "user", "item", "rows", "AUC", "difference", "95 % interval", "LogLoss"),
        tuple(rows),
        3,
    )


def _tail_contrasts(summary: Summary) -> StudyTable:
    rows = [
        (
            row_name(entry["labels"]),
            row_name(entry["with"]),
            f"{entry['tail_gain']:+.4f}",
            f"{entry['rest_gain']:+.4f}",
            f"{entry['difference']:+.4f}",
            _interval(entry),
            p_text(entry["p_value_holm"]),
            entry["verdict"],
        )
        for entry in summary["tail_contrasts"]
    ]
    return StudyTable(
        "Is the gain in AUC larger where user or item is tail?",
        (
            "model",
            "against",
            "gain, tail",
            "gain, rest",
            "difference",
            "95 % interval",
            "p (Holm)",
            "verdict",
        ),
        tuple(rows),
        2,
    )


def _mean(entry: Mapping[str, Any], metric: str) -> str:
    if entry[metric] is None:
        return "undefined"
    deviation = entry[f"{metric}_deviation"]
    return f"{entry[metric]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _interval(entry: Mapping[str, Any], prefix: str = "") -> str:
    low, high = entry[f"{prefix}low"], entry[f"{prefix}high"]
    return "" if low is None else f"{low:+.4f} to {high:+.4f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.2f} %"


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def joined(tables: Sequence[StudyTable]) -> str:
    """All tables as one LaTeX file."""
    return "\n".join(table.latex() for table in tables)
