"""The folder of arrays: round trip, damage, interrupted writes."""

from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest

from clickprompt.modality import ModelInput
from clickprompt.modality.arrays import ArrayFile


@pytest.fixture
def folder(convert, tmp_path):
    return convert(tmp_path / "model_input").folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read(model_input, views):
    id_view, codes = views.id_view, views.field_codes
    again = ModelInput.open(model_input.folder)
    for name, expected in {
        "ids": views.ids,
        "labels": codes.labels,
        "row_numbers": codes.row_numbers,
        "user_train_rows": id_view.user_train_rows(codes.codes),
        "item_train_rows": id_view.item_train_rows(codes.codes),
    }.items():
        stored = getattr(again, name)
        assert isinstance(stored, np.memmap)
        assert stored.dtype == expected.dtype
        assert (stored == expected).all()
    assert (again.pieces == views.piece_ids).all()
    assert again.field_sizes == id_view.field_sizes
    assert again.vocabularies == id_view.vocabularies
    assert set(again.bags) == {3}
    assert (again.bags[3] == id_view.bags[3]).all()
    assert (again.ids.dtype, again.pieces.dtype) == (np.int32, np.int32)
    assert (again.labels.dtype, again.row_numbers.dtype) == (np.int8, np.int64)
    assert (again.piece_tokens.dtype, again.piece_offsets.dtype) == (np.int32, np.int64)
    assert again.metadata["split_rows"] == list(codes.split_rows)
    assert again.metadata["special_tokens"] == {"cls": 101, "sep": 102, "mask": 103, "pad": 0}
    assert again.digest == model_input.digest


def test_splits_are_slices_that_cover_all_rows(model_input):
    rows = [model_input.rows(split) for split in ("train", "valid", "test")]
    assert rows[0].start == 0
    assert [part.stop for part in rows[:2]] == [part.start for part in rows[1:]]
    assert rows[2].stop == len(model_input.labels)
    with pytest.raises(ValueError, match="split must be one of train, valid, test, got 'dev'"):
        model_input.rows("dev")


def test_the_digest_depends_on_content_only(convert, model_input, tmp_path):
    assert convert(tmp_path / "again").digest == model_input.digest
    assert convert(tmp_path / "shorter", max_tokens=30).digest != model_input.digest


def test_no_model_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold a model input, .*modality_conversion"):
        ModelInput.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["ids.npy", "pieces.npy", "piece_tokens.npy", "bag_3.npy"])
def test_a_truncated_array_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"{name} is damaged: it must have \d+ bytes, got \d+"):
        ModelInput.open(folder, verify=False)


@pytest.mark.parametrize("name", ["labels.npy", "piece_offsets.npy", "vocabularies.json"])
def test_a_changed_byte_is_noticed(folder, name):
    path = folder / name
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"{name} is damaged: its sha256 must be"):
        ModelInput.open(folder)


def test_a_missing_array_is_named(folder):
    (folder / "labels.npy").unlink()
    with pytest.raises(ValueError, match=r"labels\.npy is damaged: it is missing"):
        ModelInput.open(folder)


def test_an_array_of_another_shape_is_named(folder):
    path = folder / "labels.npy"
    labels = np.load(path)
    np.save(path, labels[: len(labels) // 2 * 2].reshape(2, -1))  # same size if rows are even
    metadata = json.loads((folder / "metadata.json").read_text())
    if path.stat().st_size == metadata["files"]["labels.npy"]["bytes"]:
        with pytest.raises(ValueError, match=r"labels\.npy is damaged: it must hold int8"):
            ModelInput.open(folder, verify=False)


def test_changed_metadata_is_noticed(folder):
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["max_tokens"] = 7
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"metadata\.json is damaged: its digest does not fit"):
        ModelInput.open(folder)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"metadata\.json is damaged"):
        ModelInput.open(folder)


def test_pickled_arrays_are_never_loaded(folder):
    np.save(folder / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"labels\.npy is damaged"):
        ModelInput.open(folder, verify=False)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_interrupted_write_leaves_the_old_folder(convert, folder, monkeypatch, error, raised):
    before = contents(folder)
    saved = np.save
    calls = []

    def failing(path, array, **options):
        calls.append(path)
        if len(calls) == 4:
            path.write_bytes(b"half")
            raise error
        saved(path, array, **options)

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(raised) as caught:
        convert(folder, max_tokens=30)
    if raised is OSError:
        assert caught.value.errno == errno.ENOSPC
        assert "could not save" in str(caught.value)
        assert "No space left on device; what was saved before remains" in str(caught.value)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    ModelInput.open(folder)


def test_a_first_write_that_fails_leaves_nothing(convert, tmp_path, monkeypatch):
    def full(path, array, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="could not save"):
        convert(tmp_path / "model_input")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pieces", "item_train_rows", "sync"])
def test_an_error_in_a_thread_leaves_the_old_folder(convert, folder, monkeypatch, name):
    before = contents(folder)
    full = OSError(errno.ENOSPC, "No space left on device")
    write = ArrayFile.write
    paths: dict[int, str] = {}
    opened = ArrayFile.__init__

    def open_file(self, path, *arguments):
        opened(self, path, *arguments)
        paths[id(self)] = path.stem

    def failing(self, start, rows):
        if paths[id(self)] == name:
            raise full
        write(self, start, rows)

    def no_sync(path):
        raise full

    monkeypatch.setattr(ArrayFile, "__init__", open_file)
    monkeypatch.setattr(ArrayFile, "write", failing)
    if name == "sync":
        monkeypatch.setattr("clickprompt.modality.model_input.sync", no_sync)
    with pytest.raises(OSError, match="could not save") as caught:
        convert(folder, max_tokens=30)
    assert caught.value.errno == errno.ENOSPC
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_new_write_replaces_the_old_and_its_leftovers(convert, folder):
    leftover = folder.with_name(folder.name + ".writing")
    leftover.mkdir()
    (leftover / "ids.npy").write_bytes(b"half")
    found = convert(folder, max_tokens=30)
    assert ModelInput.open(folder).max_tokens == found.max_tokens == 30
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_writer_killed_between_its_renames_is_mended(folder):
    before = contents(folder)
    folder.rename(folder.with_name(folder.name + ".old"))
    shutil.copytree(folder.with_name(folder.name + ".old"), folder.with_name("x.writing"))
    ModelInput.open(folder)
    assert contents(folder) == before
