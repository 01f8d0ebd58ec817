"""Which of several processes this one is, as launchers say it in the environment.

torch's elastic launcher (`clickprompt.training.launch`), torchrun and ``accelerate launch`` set the
same variables. Without a launcher there is one process. No torch here: hooks ask, too.
"""

from __future__ import annotations

import os

from clickprompt.parameters import TrainingParameters


def world_size() -> int:
    """Processes that train together, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them, from 0; 0 writes and speaks."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine, hence of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def starts_processes(training: TrainingParameters) -> bool:
    """Whether a stage is trained by processes that are yet to be started."""
    return training.processes * training.machines > 1 and "WORLD_SIZE" not in os.environ


def writes(training: TrainingParameters) -> bool:
    """Whether this process writes the results of a stage; the machines share their folder."""
    return rank() == 0 and ("WORLD_SIZE" in os.environ or training.machine_rank == 0)


def follows(training: TrainingParameters) -> bool:
    """Whether another process runs the pipeline and this one only trains with it."""
    return rank() > 0 or training.machine_rank > 0
