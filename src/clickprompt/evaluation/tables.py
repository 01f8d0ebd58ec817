"""Result tables for the terminal and for Markdown, from the evaluation report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from clickprompt.evaluation.prompts import WAYS, measure_name
from clickprompt.evaluation.report import BACKBONE, CONSTANT, Report

MODEL_NAMES = {
    CONSTANT: "Constant (train rate)",
    BACKBONE: "Backbone from scratch",
    "clickprompt_without_plm": "ClickPrompt without PLM",
    "clickprompt_with_plm": "ClickPrompt with PLM",
    "clickprompt_distilled": "ClickPrompt distilled",
    "ctr_bert": "CTR-BERT",
    "p5": "P5",
    "ptab": "PTab",
    "ctrl": "CTRL",
    "text_features": "Frozen text vectors",
    "longer_backbone": "Backbone, more epochs",
}
STAGE_NAMES = {"pretrain": "Pretraining", "finetune_with_plm": "ClickPrompt with PLM"}
TEXT_COLUMNS = ("Model", "CTR", "PLM")


def table_rows(report: Report) -> list[dict[str, str]]:
    """The test results as texts: one row per model, heading -> text.

    With several seeds a metric is its mean ± sample deviation over them. A gain is the relative
    improvement over the backbone of the same CTR model and seed, positive being better.
    """
    several_seeds = any(line["seeds"] > 1 for line in report["summary"])
    table = []
    for line in report["summary"]:
        texts = {
            "Model": MODEL_NAMES.get(line["model"], line["model"]),
            "CTR": line["ctr"] or "–",
            "PLM": line["plm"] or "–",
        }
        if several_seeds:
            texts["Seeds"] = "–" if line["model"] == CONSTANT else str(line["seeds"])
        texts |= {
            "AUC": _value(line, "auc"),
            "AUC gain": _gain(line["auc_improvement"]),
            "LogLoss": _value(line, "log_loss"),
            "LogLoss gain": _gain(line["log_loss_improvement"]),
        }
        table.append(texts)
    return table


def results_table(report: Report) -> Table:
    """The table that a run ends with, for ``rich.print``; the best of each metric is bold.

    A CTR model or PLM that all models share stands in the title and not in a column; where there is
    none it stands nowhere.
    """
    lines, rows = report["summary"], table_rows(report)
    best = {"AUC": _best(lines, "auc", max), "LogLoss": _best(lines, "log_loss", min)}
    shared = {
        heading: next(iter(values), None)
        for heading in ("CTR", "PLM")
        if len(values := {row[heading] for row in rows} - {"–"}) <= 1
    }
    subject = [f"{heading} {name}" for heading, name in shared.items() if name is not None]
    table = Table(
        title=escape(", ".join([f"Test split, {lines[0]['rows']:,} rows", *subject])),
        caption="gain: relative improvement over the backbone\n"
        "AUC: higher is better; LogLoss: lower is better",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    headings = [heading for heading in rows[0] if heading not in shared]
    for heading in headings:
        if heading in TEXT_COLUMNS:
            table.add_column(heading, overflow="fold")
        else:
            # In a narrow terminal names may wrap, but no digit may be lost.
            width = max(len(row[heading]) for row in rows)
            table.add_column(heading.replace(" ", "\n"), justify="right", min_width=width)
    for number, row in enumerate(rows):
        texts = {heading: escape(row[heading]) for heading in headings}
        table.add_row(
            *(
                f"[bold]{text}[/bold]" if best.get(heading) == number else text
                for heading, text in texts.items()
            )
        )
    return table


def prompts_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """What the prompts do, for ``rich.print``: on valid, with them, without, with another row's.

    The caption says what share of the text's attention they get, layer by layer.

    Args:
        summaries: from `clickprompt.evaluation.prompts.prompt_summary`, one a stage.
    """
    captions = []
    for summary in summaries:
        if attention := summary["attention"]:
            shares = ", ".join(f"{layer['share']:.0%}" for layer in attention["layers"])
            captions.append(
                f"{STAGE_NAMES[summary['stage']]}: attention on the prompts by layer {shares}; "
                f"indifferent {attention['indifferent']:.0%}"
            )
    table = Table(
        title="What the prompts do, valid split",
        caption="\n".join(captions) or None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Measure", overflow="fold")
    for way in WAYS:
        table.add_column(f"prompts\n{way}", justify="right", min_width=6)
    for summary in summaries:
        for measure, values in summary["effect"].items():
            name = f"{STAGE_NAMES[summary['stage']]}: {measure_name(measure)}"
            known = [values[way] for way in WAYS]
            table.add_row(
                name, *("undefined" if value is None else f"{value:.4f}" for value in known)
            )
    return table


def results_markdown(report: Report) -> str:
    """The same table in Markdown."""
    rows = table_rows(report)
    headings = list(rows[0])
    rule = ["---" if heading in TEXT_COLUMNS else "---:" for heading in headings]
    lines = [headings, rule, *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _best(lines: list[dict[str, Any]], metric: str, pick: Any) -> int | None:
    """Number of the line with the best mean."""
    known = [number for number, line in enumerate(lines) if line[metric] is not None]
    return pick(known, key=lambda number: lines[number][metric]) if known else None


def _value(line: dict[str, Any], metric: str) -> str:
    if line[metric] is None:
        return "undefined"
    deviation = line[f"{metric}_deviation"]
    spread = "" if deviation is None or line["model"] == CONSTANT else f" ± {deviation:.4f}"
    return f"{line[metric]:.4f}{spread}"


def _gain(improvement: float | None) -> str:
    return "–" if improvement is None else f"{100 * improvement:+.2f} %"
