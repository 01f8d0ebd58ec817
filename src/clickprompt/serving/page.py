"""A page for trying: a user and an item, the probability of each model, the text, the prompts.

    python -m clickprompt.serving.page

It needs the extra ``serve`` and shows the bundles of data/06_models/bundles. Where the rows are
there that it was trained on, a chosen item brings its title and whatever else belongs to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clickprompt.serving.bundle import BundleError
from clickprompt.serving.scorer import Scorer

MODELS = {
    "backbone": "Backbone",
    "clickprompt_without_plm": "ClickPrompt without PLM",
    "clickprompt_with_plm": "ClickPrompt with PLM",
}
FOLDER = Path("data/06_models/bundles")
ROWS = Path("data/02_intermediate/interactions.parquet")
CHOICES = 2000  # values that a list offers; others can be typed


@dataclass(frozen=True)
class Answer:
    """What the page shows of one row.

    Attributes:
        probabilities: by model; None where the row cannot be scored.
        text: what the language model reads.
        unseen: columns whose value no train row had.
        reason: why the row cannot be scored, or None.
        attention: (layers, prompts) share of the text's attention; None without prompts.
    """

    probabilities: dict[str, float | None]
    text: str
    unseen: list[str]
    reason: str | None
    attention: np.ndarray | None


class Desk:
    """Scores one row with all models of a folder.

    Args:
        folder: bundles, by the names of `MODELS`; those that are not there are left out.

    Raises:
        BundleError: there is none, or one was changed.
    """

    def __init__(self, folder: str | Path = FOLDER) -> None:
        found = [name for name in MODELS if (Path(folder) / name).is_dir()]
        if not found:
            raise BundleError(
                f"{folder} must hold a bundle ({', '.join(MODELS)}), got none: kedro run makes them"
            )
        self.scorers = {name: Scorer(Path(folder) / name) for name in found}
        self._last = self.scorers[found[-1]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row."""
        return self._last.columns

    @property
    def names(self) -> list[str]:
        """Human names of the columns."""
        return [field.name for field in self._last.bundle.data.fields]

    def values(self, column: str) -> list[str]:
        """Values of a column that the models know, sorted; numbers as numbers."""
        position = self.columns.index(column)
        vocabulary = self._last.bundle.vocabularies[position].values
        known = [value for value in vocabulary if value is not None]
        if all(value.isdecimal() for value in known):
            known.sort(key=int)
        return known[:CHOICES]

    def answer(self, row: dict[str, Any]) -> Answer:
        """All that is shown of a row."""
        answers = {name: scorer.score([row]) for name, scorer in self.scorers.items()}
        last = answers[list(answers)[-1]]
        attention = None
        if getattr(self._last.model, "generator", None) is not None and last.reasons[0] is None:
            attention = self._last.prompt_attention([row])[0]
        unseen = zip(self.columns, last.health.unseen, strict=True)
        return Answer(
            probabilities={
                name: None if found.reasons[0] else float(found.probability[0])
                for name, found in answers.items()
            },
            text=self._last.texts([row])[0],
            unseen=[column for column, count in unseen if count],
            reason=last.reasons[0],
            attention=attention,
        )


class Belongings:
    """What belongs to a value in a table of rows, such as title, genre and year to a movie's id.

    A column belongs to another one if each value of that one goes with one value of it only.

    Args:
        rows: a table with some of the columns.
        columns: those of a row.
    """

    def __init__(self, rows: pd.DataFrame, columns: Sequence[str]) -> None:
        known = rows[[name for name in columns if name in rows]].astype("str")
        self._of: dict[str, pd.DataFrame] = {}
        for key in map(str, known):
            values = known.groupby(key)
            counts = values.nunique()
            belonging = [str(name) for name in counts if (counts[name] <= 1).all()]
            if belonging:
                self._of[key] = values[belonging].first()

    @property
    def columns(self) -> list[str]:
        """Columns that others belong to."""
        return list(self._of)

    def of(self, column: str, value: str | None) -> dict[str, str | None]:
        """Column -> value that belongs to a value, None if missing; {} if it is in no row."""
        table = self._of[column]
        if value not in table.index:
            return {}
        row = table.loc[value]
        return {name: None if pd.isna(row[name]) else str(row[name]) for name in map(str, table)}

    def complete(self, row: Mapping[str, str | None]) -> dict[str, str | None]:
        """A row with what belongs to the value of the column that most others belong to."""
        if not self._of:
            return dict(row)
        key = max(self._of, key=lambda name: self._of[name].shape[1])
        return {**row, **self.of(key, row[key])}


def read_row(columns: Sequence[str], values: Sequence[str | None], typed: str) -> dict[str, Any]:
    """The row of the fields, or the one that was typed as JSON.

    Raises:
        ValueError: the typed text is no JSON object.
    """
    if not typed.strip():
        return {name: value or None for name, value in zip(columns, values, strict=True)}
    try:
        row = json.loads(typed)
    except ValueError as error:
        raise ValueError(f"a typed row must be a JSON object, got {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"a typed row must be a JSON object, got {typed[:80]!r}")
    return row


def build_page(desk: Desk, belongings: Belongings | None = None) -> Any:
    """The page, to be launched.

    Args:
        desk: scores.
        belongings: fill in the other fields of an item that is chosen; None: nothing does.

    Raises:
        ValueError: Gradio is not there.
    """
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            "the page needs the package gradio, got none: pip install -e '.[serve]'"
        ) from error

    def show(*given: str | None) -> tuple[Any, ...]:
        try:
            row = read_row(desk.columns, given[:-1], given[-1] or "")
            answer = desk.answer(row)
        except ValueError as error:
            raise gradio.Error(str(error)) from None
        table = [
            [MODELS[name], "" if found is None else f"{found:.4f}"]
            for name, found in answer.probabilities.items()
        ]
        notes = [f"Cannot be scored: {answer.reason}"] if answer.reason else []
        if answer.unseen:
            notes.append(f"Not seen in training: {', '.join(answer.unseen)}")
        return table, answer.text, ". ".join(notes), _attention_rows(answer.attention)

    belongings = belongings or Belongings(pd.DataFrame(), desk.columns)
    choices = {column: desk.values(column) for column in desk.columns}
    first: dict[str, str | None] = {
        name: next(iter(known), None) for name, known in choices.items()
    }
    first = belongings.complete(first)

    def fill(key: str, value: str | None, *given: str | None) -> list[str | None]:
        found = belongings.of(key, value)
        return [found.get(name, old) for name, old in zip(desk.columns, given, strict=True)]

    with gradio.Blocks(title="ClickPrompt", analytics_enabled=False) as page:
        gradio.Markdown("# ClickPrompt\nProbability of a click, with and without the PLM.")
        with gradio.Row():
            with gradio.Column():
                fields = [
                    gradio.Dropdown(
                        choices=known,
                        value=first[column],
                        label=name,
                        allow_custom_value=True,
                    )
                    for name, (column, known) in zip(desk.names, choices.items(), strict=True)
                ]
                typed = gradio.Textbox(label="or a row as JSON, instead of the fields", lines=3)
                button = gradio.Button("Score", variant="primary")
            with gradio.Column():
                table = gradio.Dataframe(headers=["model", "probability"], label="Probability")
                text = gradio.Textbox(label="Text that the PLM reads", lines=3)
                notes = gradio.Textbox(label="Notes")
                attention = gradio.Dataframe(label="Share of the text's attention, by prompt")
        outputs = [table, text, notes, attention]
        button.click(show, [*fields, typed], outputs, api_name="score")
        for key in belongings.columns:
            chosen = fields[desk.columns.index(key)]
            chosen.input(partial(fill, key), [chosen, *fields], fields, api_name=f"fill_{key}")
    return page


def _attention_rows(share_LK: np.ndarray | None) -> dict[str, Any]:
    if share_LK is None:
        return {"headers": ["layer"], "data": []}
    return {
        "headers": ["layer", *(f"prompt {k + 1}" for k in range(share_LK.shape[1])), "all"],
        "data": [
            [str(layer + 1), *(f"{share:.1%}" for share in share_K), f"{share_K.sum():.1%}"]
            for layer, share_K in enumerate(share_LK)
        ],
    }


def main() -> None:
    """Serve the page on this machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="bundles of the models")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the interactions table, if any")
    parser.add_argument("--port", type=int, default=7860)
    arguments = parser.parse_args()
    belongings = None
    try:
        desk = Desk(arguments.folder)
        if arguments.rows.is_file():
            belongings = Belongings(pd.read_parquet(arguments.rows), desk.columns)
        page = build_page(desk, belongings)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    page.launch(server_name="127.0.0.1", server_port=arguments.port, share=False)


if __name__ == "__main__":
    main()
