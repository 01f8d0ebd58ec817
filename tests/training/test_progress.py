"""What the progress line of a training says."""

from __future__ import annotations

import re

import torch

from clickprompt.training import loop
from tests.training.test_divergence import BATCH, STEPS, run


def test_the_loss_that_is_shown_is_the_mean_of_the_rows_behind_it(tmp_path, monkeypatch):
    """Each row's loss is 3, so the mean is 3 wherever it is shown."""
    said: list[str] = []

    class Recorder(loop.RateProgress):
        def advance(self, count, words=""):
            said.append(words)
            super().advance(count, words)

    monkeypatch.setattr(loop, "RateProgress", Recorder)
    run(tmp_path, lambda model, epoch, step, loss: loss * 0 + 3.0 * torch.tensor(rows_of(step)))
    assert len(said) == 2 * STEPS
    losses = [re.fullmatch(r"epoch \d(?: loss (\S+))?", words)[1] for words in said]
    assert losses[0] is None
    assert losses[STEPS] is None
    assert {loss for loss in losses if loss is not None} == {"3.0000"}


def rows_of(step: int) -> float:
    """The last batch has 4 rows."""
    return 4.0 if step == STEPS - 1 else float(BATCH)
