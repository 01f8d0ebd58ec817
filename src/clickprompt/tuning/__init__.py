"""Search for hyperparameters on valid: the space, the study, its report and the environment.

:func:`tune` knows neither Kedro nor the stage's code; ``kedro tune`` is in ``runner``.
"""

from clickprompt.tuning.environment import write_environment
from clickprompt.tuning.report import trials_table, write_page
from clickprompt.tuning.space import TUNED_STAGES, Space, check_space
from clickprompt.tuning.study import TunedStudy, tune

__all__ = [
    "TUNED_STAGES",
    "Space",
    "TunedStudy",
    "check_space",
    "trials_table",
    "tune",
    "write_environment",
    "write_page",
]
