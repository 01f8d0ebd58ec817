"""Evaluation of saved predictions, without torch.

- :func:`evaluate_predictions`: predictions of one or more models -> the report, a plain dict.
- :func:`train_facts`: what it must know of the train split.
- :mod:`~clickprompt.evaluation.metrics`, :mod:`~clickprompt.evaluation.long_tail`,
  :mod:`~clickprompt.evaluation.significance`: what the report is made of.
- :mod:`~clickprompt.evaluation.tables`, :mod:`~clickprompt.evaluation.plots`: made from it.
"""

from clickprompt.evaluation.long_tail import TrainFacts, train_facts
from clickprompt.evaluation.metrics import auc, log_loss, relative_improvement
from clickprompt.evaluation.report import evaluate_predictions

__all__ = [
    "TrainFacts",
    "auc",
    "evaluate_predictions",
    "log_loss",
    "relative_improvement",
    "train_facts",
]
