from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clickprompt.files import recover_folder, value_digest
from clickprompt.training import files


def save(folder: Path, value: float) -> None:
    files.write_folder(
        folder,
        lambda aside: files.save_tensors(aside / "w.safetensors", {"w": torch.full((64,), value)}),
    )


def stored(folder: Path) -> float:
    files.check_folder(folder)
    return float(files.load_tensors(folder / "w.safetensors")["w"][0])


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    save(tmp_path / "state", 1.0)
    save(tmp_path / "state", 2.0)
    assert stored(tmp_path / "state") == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


@pytest.mark.parametrize("failing", ["save_file", "fsync"])
def test_a_full_disk_keeps_the_old_folder(tmp_path, monkeypatch, failing):
    save(tmp_path / "state", 1.0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = files if failing == "save_file" else os
    monkeypatch.setattr(target, failing, full)
    with pytest.raises(OSError, match=r"could not save .*state: No space left.*remains") as caught:
        save(tmp_path / "state", 2.0)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert stored(tmp_path / "state") == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_a_limit_on_the_file_size_is_met_for_real(tmp_path):
    """The kernel refuses to write more than 4 kB, as a full disk would."""
    save(tmp_path / "state", 1.0)
    script = f"""
import resource, signal, torch
from pathlib import Path
from clickprompt.files import recover_folder, value_digest
from clickprompt.training import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
big = {{"w": torch.zeros(100_000)}}
write = lambda aside: files.save_tensors(aside / "w.safetensors", big)
files.write_folder(Path({str(tmp_path / "state")!r}), write)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "could not save" in done.stderr
    assert stored(tmp_path / "state") == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_an_interrupted_rename_is_mended(tmp_path):
    save(tmp_path / "state", 1.0)
    (tmp_path / "state").rename(tmp_path / "state.old")
    assert recover_folder(tmp_path / "state")
    assert stored(tmp_path / "state") == 1.0
    assert not recover_folder(tmp_path / "nothing")


def test_a_half_written_folder_beside_is_ignored_and_replaced(tmp_path):
    (tmp_path / "state.writing").mkdir()
    (tmp_path / "state.writing" / "w.safetensors").write_bytes(b"half")
    save(tmp_path / "state", 1.0)
    assert stored(tmp_path / "state") == 1.0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-5]), r"w\.safetensors must have \d+ bytes, got"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x"), r"w\.safetensors must have sha256"),
        (lambda f: f.unlink(), r"w\.safetensors is missing"),
        (lambda f: (f.parent / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
    ],
)
def test_damage_names_the_file_and_the_remedy(tmp_path, damage, message):
    save(tmp_path / "state", 1.0)
    damage(tmp_path / "state" / "w.safetensors")
    with pytest.raises(files.DamagedFolderError, match=message + r".*delete .*state"):
        files.check_folder(tmp_path / "state")


def test_no_pickle_is_read(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(files.DamagedFolderError, match="cannot be read"):
        files.load_tensors(tmp_path / "w.safetensors")


def test_the_digest_of_a_value_ignores_the_order_of_keys():
    assert value_digest({"a": 1, "b": [1, 2]}) == value_digest({"b": [1, 2], "a": 1})
    assert value_digest({"a": 1}) != value_digest({"a": 2})
