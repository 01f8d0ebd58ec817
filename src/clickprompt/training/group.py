"""Several processes that each run the same pipeline, and train together in it.

They were started by ``accelerate launch`` or torchrun, or by hand on several machines
(``training.machines``). The first one does what is not training and saves every output; the others
wait for its news and then read what it saved. News go through the store that torch's processes meet
at, as numbered JSON texts.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from torch import distributed

from clickprompt.parameters import TrainingParameters
from clickprompt.training.distribution import join_group
from clickprompt.training.launch import SECONDS_TO_MEET, check_processes
from clickprompt.training.machine import choose_machine
from clickprompt.training.ranks import rank, world_size

SECONDS_BETWEEN = 0.2  # two looks for news
SECONDS_TO_SPEAK = 1.0  # for the others to say why they end: a launcher ends them with the first
SECONDS_OF_GRACE = 10.0  # for the others to hear the last news, or for the first to send it


class FirstProcessEndedError(ChildProcessError):
    """The first process ended without finishing; so does this one."""


class RunGroup:
    """The first process tells, the others hear.

    Args:
        store: that all of them reach.
        number: of this process, from 0.
        count: of processes.
    """

    def __init__(self, store: distributed.Store, *, number: int, count: int) -> None:
        self._store = distributed.PrefixStore("clickprompt_run", store)
        self._number, self._count = number, count
        self._news = 0

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self._number == 0

    def tell(self, **news: Any) -> None:
        """Tell the others."""
        self._store.set(f"news_{self._news}", json.dumps(news))
        self._news += 1

    def hear(self, seconds: float | None = None) -> dict[str, Any]:
        """The next news; waits for them.

        Args:
            seconds: to wait at most; None: without end.

        Raises:
            FirstProcessEndedError: it ended early, with the reason that it gave.
            TimeoutError: there were none.
        """
        key = f"news_{self._news}"
        end = None if seconds is None else time.monotonic() + seconds
        try:
            # Looked at again and again, so that Ctrl-C ends the wait.
            while not self._store.check([key]):
                if end is not None and time.monotonic() > end:
                    raise TimeoutError(f"the first process has told nothing for {seconds} s")
                time.sleep(SECONDS_BETWEEN)
            news: dict[str, Any] = json.loads(self._store.get(key))
            self._news += 1
            if "failed" in news or "finished" in news:
                self._store.add("heard", 1)
        except (distributed.DistError, RuntimeError) as error:
            raise self._ended(f"it cannot be reached ({error})") from None
        if "failed" in news:
            raise self._ended(news["failed"])
        return news

    def fail(self, error: BaseException) -> None:
        """The last news of a run that failed."""
        self.tell(failed=f"{type(error).__name__}: {error}")
        self._wait_until_heard()
        time.sleep(SECONDS_TO_SPEAK)

    def finish(self) -> None:
        """The last news of a run."""
        self.tell(finished=True)
        self._wait_until_heard()

    def wait_for_first(self) -> None:
        """Let the first process close its run: a launcher ends all as soon as one has ended."""
        end = time.monotonic() + SECONDS_OF_GRACE
        with suppress(distributed.DistError, RuntimeError):  # it is gone
            while time.monotonic() < end:
                self._store.check(["heard"])
                time.sleep(SECONDS_BETWEEN)

    def _wait_until_heard(self) -> None:
        """The store may end with this process."""
        end = time.monotonic() + SECONDS_OF_GRACE
        while self._store.add("heard", 0) < self._count - 1 and time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN)

    def _ended(self, reason: str) -> FirstProcessEndedError:
        return FirstProcessEndedError(
            f"process {self._number} of {self._count} ends because the first one ended: {reason}"
        )


def run_group(training: TrainingParameters) -> RunGroup | None:
    """The group that this process runs a pipeline in; None when it does so alone.

    Raises:
        ValueError: the parameters do not fit the launcher or the devices; see `check_processes`.
        FirstProcessEndedError: the first machine cannot be reached.
    """
    if world_size() > 1:
        if training.processes * training.machines not in (1, world_size()):
            raise ValueError(
                f"training.processes * training.machines must be 1 or the launcher's number of "
                f"processes {world_size()}, got {training.processes * training.machines}"
            )
        join_group(choose_machine(training).device)
        store = distributed.distributed_c10d._get_default_store()
        return RunGroup(store, number=rank(), count=world_size())
    check_processes(training)
    if training.machines == 1:
        return None
    assert training.rendezvous is not None
    host, _, port = training.rendezvous.rpartition(":")
    try:
        # multi_tenant: the launcher of each stage meets at the same address.
        store = distributed.TCPStore(
            host,
            int(port),
            is_master=training.machine_rank == 0,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=timedelta(seconds=SECONDS_TO_MEET),
        )
    except (distributed.DistError, RuntimeError) as error:
        raise FirstProcessEndedError(
            f"machine {training.machine_rank} of {training.machines} must reach "
            f"training.rendezvous {training.rendezvous}, got {error}"
        ) from None
    return RunGroup(store, number=training.machine_rank, count=training.machines)
