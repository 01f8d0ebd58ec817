"""Memory of a process and of those that it starts; failures tell what happened."""

from __future__ import annotations

import sys
import time

import psutil
import pytest

from benchmarks.measured import CommandError, own_peak_mb, run_measured

HOLD = "data = bytearray({0} << 20); data[::1024] = b'x' * (len(data) // 1024)"
CHILD = (
    "import subprocess, sys; "
    'subprocess.run([sys.executable, "-c", sys.argv[1] + "; import time; time.sleep(0.5)"]); '
    'print("{}")'
)


def test_the_last_line_is_the_result(tmp_path):
    code = "import os; print('noise'); print('{\"folder\": \"' + os.getcwd() + '\"}')"
    found = run_measured([sys.executable, "-c", code], folder=tmp_path)
    assert found.result == {"folder": str(tmp_path)}


def test_memory_of_a_child_counts(tmp_path):
    code = HOLD.format(150)
    alone = run_measured(
        [sys.executable, "-c", f"{code}; import time; time.sleep(0.5); print('{{}}')"],
        folder=tmp_path,
    )
    within = run_measured([sys.executable, "-c", CHILD, code], folder=tmp_path)
    for found in (alone, within):
        assert 150 < found.peak_memory_mb < 220


def test_a_command_over_its_limit_is_stopped_with_all_it_started(tmp_path):
    code = HOLD.format(150) + "; import time; time.sleep(60)"
    others = set(psutil.Process().children(recursive=True))  # helpers of earlier tests
    started = time.monotonic()
    with pytest.raises(CommandError, match=r"memory must stay below 100 MiB, got 1\d\d"):
        run_measured([sys.executable, "-c", CHILD, code], folder=tmp_path, limit_mb=100)
    assert time.monotonic() - started < 20
    assert set(psutil.Process().children(recursive=True)) <= others


def test_a_failure_shows_the_code_and_the_last_words(tmp_path):
    code = "import sys; print('last words', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandError, match=r"(?s)must end with code 0, got 3.*last words"):
        run_measured([sys.executable, "-c", code], folder=tmp_path)


def test_a_killed_command_says_so(tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(CommandError, match=r"got -9 \(killed, perhaps for want of memory"):
        run_measured([sys.executable, "-c", code], folder=tmp_path)


@pytest.mark.parametrize("code", ["pass", "print('no json')"])
def test_an_output_without_json_is_an_error(tmp_path, code):
    with pytest.raises(CommandError, match="the last line must be JSON, got"):
        run_measured([sys.executable, "-c", code], folder=tmp_path)


def test_own_peak_is_at_least_what_is_resident_now():
    assert own_peak_mb() >= psutil.Process().memory_info().rss / 2**20 - 1
