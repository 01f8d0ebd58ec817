"""The first of several processes tells, the others hear; here in threads."""

from __future__ import annotations

import threading

import pytest
from torch import distributed

from clickprompt.parameters import TrainingParameters
from clickprompt.training import group
from clickprompt.training.group import FirstProcessEndedError, RunGroup, run_group


@pytest.fixture
def groups(monkeypatch):
    """The first of two processes, and the second."""
    monkeypatch.setattr(group, "SECONDS_BETWEEN", 0.001)
    monkeypatch.setattr(group, "SECONDS_OF_GRACE", 0.2)
    monkeypatch.setattr(group, "SECONDS_TO_SPEAK", 0.0)
    store = distributed.HashStore()
    return [RunGroup(store, number=number, count=2) for number in range(2)]


def test_news_are_heard_in_order_each_once(groups):
    first, second = groups
    assert (first.leads, second.leads) == (True, False)
    heard = []
    listener = threading.Thread(target=lambda: heard.extend(second.hear() for _ in range(2)))
    listener.start()
    first.tell(nodes=["a", "b"])
    first.tell(done="a")
    listener.join()
    assert heard == [{"nodes": ["a", "b"]}, {"done": "a"}]
    with pytest.raises(TimeoutError, match=r"told nothing for 0\.01 s"):
        second.hear(seconds=0.01)


def test_the_end_of_the_first_is_heard_with_its_reason(groups):
    first, second = groups
    first.fail(ValueError("seed must be at least 0, got -1"))
    with pytest.raises(
        FirstProcessEndedError,
        match=r"process 1 of 2 ends because the first one ended: ValueError: seed must be .* -1",
    ):
        second.hear()


def test_the_first_waits_until_its_last_news_are_heard(groups, monkeypatch):
    monkeypatch.setattr(group, "SECONDS_OF_GRACE", 30)
    first, second = groups
    ending = threading.Thread(target=first.finish)
    ending.start()
    assert ending.is_alive()
    assert second.hear() == {"finished": True}
    ending.join(timeout=5)
    assert not ending.is_alive()


def test_a_store_that_is_gone_ends_the_others(groups):
    class Gone:
        def check(self, keys):
            raise distributed.DistNetworkError("connection reset")

    _, second = groups
    second._store = Gone()
    with pytest.raises(FirstProcessEndedError, match=r"cannot be reached \(connection reset\)"):
        second.hear()


def test_one_process_runs_alone():
    assert run_group(TrainingParameters()) is None
    assert run_group(TrainingParameters(processes=2, device="cpu")) is None


def test_a_launcher_and_the_parameters_must_agree(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        ValueError,
        match=r"training\.processes \* training\.machines must be 1 or the .* processes 3, got 2",
    ):
        run_group(TrainingParameters(processes=2))


def test_a_first_machine_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(group, "SECONDS_TO_MEET", 0.1)
    asked = TrainingParameters(machines=2, machine_rank=1, rendezvous="127.0.0.1:9", device="cpu")
    with pytest.raises(
        FirstProcessEndedError,
        match=r"machine 1 of 2 must reach training\.rendezvous 127\.0\.0\.1:9, got",
    ):
        run_group(asked)
