"""A study's pages: Markdown, one self-contained HTML file, LaTeX tables, the summary as JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from clickprompt.studies.figures import study_figures
from clickprompt.studies.summary import BETTER, WORSE, Summary
from clickprompt.studies.tables import StudyTable, joined, row_name, study_tables

STYLE = (
    "body { font-family: sans-serif; max-width: 1150px; margin: 2em auto; color: #222 } "
    "table { border-collapse: collapse; margin: 1em 0; font-size: 90% } "
    "td, th { border-bottom: 1px solid #ddd; padding: 4px 10px; text-align: right } "
    "td.word, th.word { text-align: left } caption { text-align: left; color: #555 }"
)
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body>
<h1>{title}</h1>
{body}
</body></html>
"""


def study_pages(summary: Summary) -> dict[str, str]:
    """File name without its folder -> content."""
    tables = study_tables(summary)
    return {
        "report.md": markdown(summary),
        "report.html": page(summary),
        "tables.tex": joined(list(tables.values())),
        "summary.json": json.dumps(summary, indent=1) + "\n",
    }


def markdown(summary: Summary) -> str:
    """The report without figures."""
    parts = [f"# Study {summary['study']}", summary["question"]]
    parts += [f"- {line}" for line in findings(summary)]
    for table in study_tables(summary).values():
        parts.append(f"## {table.title}\n\n{table.markdown()}")
    parts.append(origin_line(summary))
    return "\n\n".join(parts) + "\n"


def page(summary: Summary) -> str:
    """The report with figures, in one file that needs no network."""
    findings_list = "".join(f"<li>{html.escape(line)}</li>" for line in findings(summary))
    parts = [f"<p>{html.escape(summary['question'])}</p>", f"<ul>{findings_list}</ul>"]
    parts += [_html_table(table) for table in study_tables(summary).values()]
    drawn = [figure for figure in study_figures(summary).values() if figure.data]
    for position, figure in enumerate(drawn):
        parts.append(figure.to_html(full_html=False, include_plotlyjs=position == 0))
    parts += [_runs(summary), f"<p>{html.escape(origin_line(summary).replace('`', ''))}</p>"]
    title = html.escape(f"Study {summary['study']}")
    return PAGE.format(title=title, style=STYLE, body="\n".join(parts))


def findings(summary: Summary) -> list[str]:
    """What the study shows, in sentences; nothing that no test shows."""
    cells = summary["cells"]
    lines = [f"{cells['finished']} of {cells['all']} cells are finished."]
    for failure in summary["failures"]:
        lines.append(f"Failed: {failure['cell']}: {failure['error']}")
    compared = [entry for entry in summary["comparisons"] if entry["metric"] == "auc"]
    for entry in compared:
        if entry["verdict"] in (BETTER, WORSE):
            tests = "over seeds" if entry["basis"] == "seeds" else "on rows, one seed"
            p_value = entry["p_value_holm" if entry["basis"] == "seeds" else "row_p_value_holm"]
            lines.append(
                f"{row_name(entry['labels'])} is {entry['verdict']} than "
                f"{row_name(entry['with'])}: AUC {entry['difference']:+.4f} "
                f"({tests}, p {p_value:.2g} after Holm)."
            )
    for entry in summary.get("pooled", ()):
        if entry["metric"] == "auc" and entry["verdict"] in (BETTER, WORSE):
            lines.append(
                f"Over all {' and '.join(entry['over'])}, {row_name(entry['labels'])} is "
                f"{entry['verdict']} than {row_name(entry['with'])}: AUC "
                f"{entry['difference']:+.4f} ({entry['pairs']} pairs of trainings, p "
                f"{entry['p_value_holm']:.2g} after Holm)."
            )
    undecided = sum(entry["verdict"] not in (BETTER, WORSE) for entry in compared)
    if undecided:
        lines.append(
            f"In {undecided} of {len(compared)} comparisons of AUC no difference is shown."
        )
    return lines


def origin_line(summary: Summary) -> str:
    """What the numbers were made from."""
    trained_on = sorted({where for row in summary["rows"] for where in row["trained_on"]})
    digests = ", ".join(digest[:16] for digest in summary["data_digests"])
    return (
        f"`kedro study {summary['study']}`, seeds {', '.join(map(str, summary['seeds']))}; cells "
        f"{summary['parameter_digest'][:16]}, data {digests or 'none'}; last cell "
        f"{summary['date'] or 'none'}; trained on {'; '.join(trained_on) or 'nothing'}."
    )


def _html_table(table: StudyTable) -> str:
    def line(texts: Sequence[str], tag: str) -> str:
        cells = (
            f"<{tag}{' class=word' if n < table.words else ''}>{html.escape(text)}</{tag}>"
            for n, text in enumerate(texts)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "td") for row in table.rows)
    return (
        f"<table><caption>{html.escape(table.title)}</caption><thead>"
        f"{line(table.headings, 'th')}</thead><tbody>{body}</tbody></table>"
    )


def _runs(summary: Summary) -> str:
    """Every cell with its tracked run."""
    lines = []
    for row in summary["rows"]:
        for cell in row["cells"]:
            name = html.escape(f"{row_name(row['labels'])} seed {cell['seed']}")
            run = cell["run"]
            shown = f'<a href="{html.escape(run)}">{name}</a>' if run else name
            lines.append(f"<li>{shown}, {cell['digest'][:16]}, {cell['ended']}</li>")
    return f"<details><summary>Runs in MLflow</summary><ul>{''.join(lines)}</ul></details>"
