"""``kedro new-table``: an environment for a table of the user's own, guessed and written down.

Nothing is hidden: what is guessed is printed with its reason and stands in the files of
``conf/<name>``, where the user changes it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.utils import find_kedro_project

if TYPE_CHECKING:
    from rich.table import Table

    from clickprompt.readers.table.proposal import ColumnGuess, Proposal

NAME = re.compile(r"[a-z][a-z0-9_]*")
# YAML reads these as something else than text when they are not quoted
PLAIN = re.compile(r"(?!(?:true|false|yes|no|on|off|null|y|n)$)[A-Za-z][A-Za-z0-9_ ]*(?<! )", re.I)
WIDEST_EXAMPLE = 24
SHOWN_ROLES = {"left out": "–"}


@click.command(name="new-table")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--name", required=True, help="Of the new environment, a folder of conf.")
@click.option("--label", help="Column of the label; without it, it is guessed.")
def new_table(files: tuple[Path, ...], name: str, label: str | None) -> None:
    """Propose an environment for tables of your own.

    FILES are CSV (plain or gzipped) or Parquet, all of one layout; they stay where they are. Column
    kinds, label, time and user are guessed from the first rows, printed, and written to conf/NAME.
    """
    from rich.console import Console

    from clickprompt.readers.table.proposal import propose

    project = find_kedro_project(Path.cwd())
    if project is None:
        raise click.ClickException("new-table must be called inside the project's folder")
    folder = project / "conf" / name
    _check_name(name, folder)
    try:
        proposal = propose([path.resolve() for path in files], label)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    texts = environment_files(proposal, name, project)
    folder.mkdir(parents=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    console = Console()
    console.print(proposal_table(proposal))
    click.echo(summary(proposal, name))


def _check_name(name: str, folder: Path) -> None:
    if not NAME.fullmatch(name):
        raise click.BadParameter(
            f"must be made of a-z, 0-9 and _, a letter first, got {name!r}", param_hint="--name"
        )
    if folder.exists():
        raise click.BadParameter(
            f"must be a new environment, got {name!r}, and conf/{name} exists: delete that folder "
            "or take another name",
            param_hint="--name",
        )


def environment_files(proposal: Proposal, name: str, project: Path) -> dict[str, str]:
    """Texts of the environment's files: name of the file -> YAML."""
    folder = Path(os.path.commonpath([path.parent for path in proposal.files]))
    place = folder.relative_to(project) if folder.is_relative_to(project) else folder
    files = [f"    {_scalar(str(path.relative_to(folder)))}: null" for path in proposal.files]
    catalog = [
        "# Your files, where they lie. They are read in this order; a sha256 instead of null is",
        "# checked at every load.",
        "",
        "raw_files:",
        "  type: clickprompt.datasets.RawFilesDataset",
        f"  path: {_scalar(place.as_posix())}",
        "  files:",
        *files,
        "  published_at: where your table comes from",
        "  metadata: {kedro-viz: {layer: raw}}",
    ]
    return {
        "globals.yml": f"data: data/{name}\n",
        "catalog.yml": "\n".join(catalog) + "\n",
        "parameters.yml": "\n".join(_parameters(proposal)) + "\n",
    }


def _parameters(proposal: Proposal) -> list[str]:
    """Lines of parameters.yml."""
    from clickprompt.readers.table.sniffing import CRITEO

    table, label = proposal.table, proposal.label
    time = proposal.column("time")
    lines = [
        "# Proposed by `kedro new-table` from the first rows: look at every line. Limits and",
        "# meanings: src/clickprompt/parameters.py. All other parameters are those of conf/base.",
        "",
        "data:",
        "  reader: table",
        f"  user: {_optional(proposal.column('user'))}",
        f"  item: {_optional(proposal.column('item'))}",
        f"  time: {_optional(time)}",
        "  label:",
        f"    column: {_scalar(label['column'])}",
        f"    positive_from: {label['positive_from']}   # label 1 from this value on",
        f"    negative_to: {label['negative_to']}   # label 0 up to this value; between is dropped",
        "  table:",
    ]
    if proposal.sample.table is not None:
        lines += [
            f"    delimiter: {_scalar(table.delimiter)}",
            f"    quote: {_optional(table.quote)}",
            f"    encoding: {table.encoding}",
        ]
        if table.columns is not None:
            names = ", ".join(_scalar(column) for column in table.columns)
            lines.append(f"    columns: [{names}]   # the files have no header")
    lines.append(f"    missing: [{', '.join(json.dumps(text) for text in table.missing)}]")
    if table.label_values:
        words = ", ".join(f"{json.dumps(w)}: {v:g}" for w, v in table.label_values.items())
        lines.append(f"    label_values: {{{words}}}")
    if time is not None:
        lines.append(f"    time_format: {_optional(table.time_format)}")
        lines.append(f"    time_unit: {table.time_unit}   # of times that are numbers")
    lines += ["  split:", *_split(proposal), "  fields:"]
    names_used: set[str] = set()
    for guess in proposal.fields:
        name = _human(guess.name, is_criteo=table.columns == CRITEO)
        name = guess.name if name in names_used else name
        names_used.add(name)
        lines.append(f"    - {_flow({'column': guess.name, 'name': name} | guess.settings)}")
    if time is not None:
        for part in proposal.time_parts:
            name = {"hour": "hour of the day", "weekday": "weekday"}[part]
            lines.append(f"    - {_flow({'column': f'{time}:{part}', 'name': name})}")
    left = [guess for guess in proposal.columns if guess.role == "left out"]
    lines += [f"    # left out: {_scalar(guess.name)} ({guess.why})" for guess in left]
    lines += ["", "studies: {settings: null}  # those of conf/base were chosen on other data"]
    return lines


def _split(proposal: Proposal) -> list[str]:
    split, time = proposal.column("split"), proposal.column("time")
    if split is not None and proposal.split_names is not None:
        names = ", ".join(_scalar(name) for name in proposal.split_names)
        return ["    by: column", f"    column: {_scalar(split)}", f"    names: [{names}]"]
    by = "time     # or random" if time is not None else "random"
    return [f"    by: {by}", "    shares: [8, 1, 1]   # train, valid, test"]


def proposal_table(proposal: Proposal) -> Table:
    """What was found in every column and what it is taken for, for ``rich.print``."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    sample = proposal.sample
    subject = "all" if sample.whole else "the first"
    table = Table(
        title=f"{escape(proposal.files[0].name)}, {subject} {sample.rows:,} rows",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Column", overflow="fold")
    table.add_column("Values", justify="right")
    table.add_column("Missing", justify="right")
    for heading in ("Examples", "Taken for", "Why"):
        table.add_column(heading, overflow="fold")
    for guess in proposal.columns:
        why = f"{guess.why}; [yellow]{escape(guess.warning)}[/]" if guess.warning else guess.why
        table.add_row(
            escape(guess.name),
            f"{guess.distinct:,}",
            f"{guess.missing:.0%}" if guess.missing else "",
            escape(", ".join(_short(example) for example in guess.examples)),
            _taken_for(guess),
            why if guess.warning else escape(why),
        )
    return table


def summary(proposal: Proposal, name: str) -> str:
    """What the user does next."""
    label = proposal.label
    lines = [
        f"Label: {label['column']} from {label['positive_from']} is positive "
        f"({proposal.positive:.1%} of these rows), to {label['negative_to']} negative."
    ]
    for role in ("user", "item"):
        if proposal.column(role) is None:
            lines.append(
                f"No column names the {role}: data.{role} is null. Name it if there is one."
            )
    if proposal.sample.repeated:
        repeated = ", ".join(proposal.sample.repeated)
        lines.append(f"Left out, since several columns have this name: {repeated}.")
    for reason, count in proposal.sample.dropped.items():
        lines.append(f"{count:,} lines of the sample are no rows ({reason}).")
    lines += [
        f"Written: conf/{name}/parameters.yml, catalog.yml and globals.yml. Check label, kinds and",
        "human names in the first; the language model reads the names. Then type:",
        "",
        f"    kedro run --env={name} --pipeline=modality_conversion",
    ]
    return "\n".join(lines)


def _taken_for(guess: ColumnGuess) -> str:
    if guess.role in ("field", "left out"):
        return guess.kind.replace("_", "-") or SHOWN_ROLES[guess.role]
    return f"[bold]{guess.role}[/]"


def _human(column: str, *, is_criteo: bool) -> str:
    """A column's name in words: "siteCategory" and "site_category" are "site category"."""
    if is_criteo:
        return f"{'count' if column[0] == 'I' else 'category'} {column[1:]}"
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", column)
    return re.sub(r"[_\s]+", " ", parted).strip().lower() or "unnamed"


def _short(example: str) -> str:
    return example if len(example) <= WIDEST_EXAMPLE else example[: WIDEST_EXAMPLE - 1] + "…"


def _flow(values: dict[str, Any]) -> str:
    parts = (f"{k}: {_scalar(v) if isinstance(v, str) else v}" for k, v in values.items())
    return f"{{{', '.join(parts)}}}"


def _optional(text: str | None) -> str:
    return "null" if text is None else _scalar(text)


def _scalar(text: str) -> str:
    """A text as YAML; one with ``${`` in it is no reference to another key."""
    if PLAIN.fullmatch(text):
        return text
    return json.dumps(text.replace("${", "\\${"), ensure_ascii=False)
