"""The project's datasets: what they check, and that no half file replaces a good one."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError, MemoryDataset
from kedro_datasets.json import JSONDataset
from kedro_datasets.pandas import ParquetDataset

from clickprompt.datasets import (
    FieldCodesDataset,
    ModelInputDataset,
    RawFilesDataset,
    TrainedModelDataset,
    WholeFileCatalog,
)
from clickprompt.training.result import TrainedModel

CONTENT = b"userId,movieId\r\n1,2\r\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def raw_files(folder, **files):
    names = {name.replace("_", "."): sha256 for name, sha256 in files.items()}
    return RawFilesDataset(path=str(folder), files=names, published_at="the publisher's page")


# --- raw files -------------------------------------------------------------------------


def test_raw_files_give_their_paths(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(CONTENT)
    dataset = raw_files(tmp_path, ratings_csv=SHA256)
    assert dataset.exists()
    assert dataset.load() == {"ratings.csv": tmp_path / "ratings.csv"}


def test_all_missing_raw_files_are_named_with_folder_and_publisher(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(CONTENT)
    dataset = raw_files(tmp_path, ratings_csv=None, movies_csv=None, users_csv=None)
    assert not dataset.exists()
    message = (
        rf"movies.csv, users.csv must lie in {tmp_path}, got no such files; "
        r"get it from the publisher's page"
    )
    with pytest.raises(DatasetError, match=message):
        dataset.load()


def test_wrong_sha256_names_file_expected_and_found(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(CONTENT + b"1,3\r\n")
    found = hashlib.sha256(CONTENT + b"1,3\r\n").hexdigest()
    with pytest.raises(DatasetError, match=f"ratings.csv must have sha256 {SHA256}, got {found}"):
        raw_files(tmp_path, ratings_csv=SHA256).load()


def test_gzipped_raw_file_is_checked_by_its_content(tmp_path):
    with gzip.open(tmp_path / "ratings.csv.gz", "wb") as file:
        file.write(CONTENT)
    loaded = raw_files(tmp_path, ratings_csv=SHA256).load()
    assert loaded == {"ratings.csv": tmp_path / "ratings.csv.gz"}
    with pytest.raises(DatasetError, match="must have sha256"):
        raw_files(tmp_path, ratings_csv="0" * 64).load()


def test_raw_files_are_never_written(tmp_path):
    with pytest.raises(DatasetError, match="never written by this project"):
        raw_files(tmp_path, ratings_csv=None).save({})


def test_embedded_raw_files_have_the_published_digests():
    import yaml

    from tests.end_to_end.project import REPOSITORY

    text = (REPOSITORY / "conf/base/catalog.yml").read_text()
    entry = yaml.safe_load(text.replace("${globals:data}", "data"))["raw_files"]
    entry.pop("type")
    dataset = RawFilesDataset(**entry | {"path": str(REPOSITORY / entry["path"])})
    assert sorted(dataset.load()) == ["movies.csv", "ratings.csv"]


# --- trained models --------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    folder = tmp_path / "06_models" / "backbone" / "0123"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    report = {"history": [{"epoch": 1, "train_loss": 0.5}], "metrics": {"test_auc": 0.8}}
    return TrainedModel(stage="backbone", digest="0123", folder=str(folder), report=report)


def test_trained_model_comes_back_as_it_was(tmp_path, trained):
    dataset = TrainedModelDataset(filepath=str(tmp_path / "backbone.json"))
    assert not dataset.exists()
    assert dataset.files() == []
    dataset.save(trained)
    assert dataset.exists()
    assert dataset.load() == trained
    assert dataset.files() == [tmp_path / "backbone.json", trained.weights_path]
    assert json.loads((tmp_path / "backbone.json").read_text())["stage"] == "backbone"


def test_trained_model_without_its_weights_does_not_exist(tmp_path, trained):
    dataset = TrainedModelDataset(filepath=str(tmp_path / "backbone.json"))
    dataset.save(trained)
    trained.weights_path.unlink()
    assert dataset.files() == [tmp_path / "backbone.json"]
    Path(trained.folder).rmdir()
    assert not dataset.exists()


# --- model input -----------------------------------------------------------------------


def test_model_input_is_saved_from_the_views_and_loaded_mapped(tmp_path):
    from clickprompt import modality
    from clickprompt.parameters import DataParameters
    from tests.end_to_end.project import write_tiny_encoder

    data = DataParameters(
        reader="none",
        item="item",
        fields=[{"column": "user_id", "name": "user"}, {"column": "item", "name": "movie"}],
        label={"positive_from": 4, "negative_to": 2},
    )
    interactions = pd.DataFrame(
        {
            "row": range(40),
            "user_id": [str(i % 4) for i in range(40)],
            "item": [str(i % 7) for i in range(40)],
            "rating": [5.0 if i % 3 else 1.0 for i in range(40)],
            "timestamp": range(40),
        }
    )
    write_tiny_encoder(tmp_path / "plm")
    from transformers import AutoTokenizer

    samples = modality.label_and_split(interactions, data)
    codes_dataset = FieldCodesDataset(path=str(tmp_path / "field_codes"))
    assert not codes_dataset.exists()
    codes_dataset.save((interactions, samples, data))
    assert codes_dataset.exists()
    assert {path.name for path in codes_dataset.files()} >= {"codes.npy", "columns.json"}
    codes = codes_dataset.load()
    assert isinstance(codes.codes, np.memmap)
    np.testing.assert_array_equal(codes.row_numbers, samples["row"])
    ids, texts = modality.build_id_view(codes, data), modality.build_text_view(codes, data)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plm")
    tokens = modality.tokenise_pieces(texts, codes, tokenizer, max_tokens=32)
    dataset = ModelInputDataset(path=str(tmp_path / "model_input"))
    assert not dataset.exists()
    dataset.save((codes, ids, texts, tokens))
    assert dataset.exists()
    loaded = dataset.load()
    np.testing.assert_array_equal(loaded.ids, ids.ids(np.asarray(codes.codes)))
    assert isinstance(loaded.ids, np.memmap)
    assert {path.name for path in dataset.files()} >= {"ids.npy", "metadata.json"}


def test_missing_model_input_says_what_to_run(tmp_path):
    with pytest.raises(DatasetError, match="run the pipeline modality_conversion"):
        ModelInputDataset(path=str(tmp_path / "nothing")).load()


# --- whole files -----------------------------------------------------------------------


@pytest.fixture
def catalog(tmp_path):
    return WholeFileCatalog(
        {
            "report": JSONDataset(filepath=str(tmp_path / "report.json")),
            "table": ParquetDataset(filepath=str(tmp_path / "table.parquet")),
            "memory": MemoryDataset(),
        }
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_catalog_saves_and_loads_as_kedros_own(tmp_path, catalog):
    table = pd.DataFrame({"x": [1, 2]})
    catalog.save("report", {"a": 1})
    catalog.save("table", table)
    catalog.save("memory", 3)
    assert catalog.load("report") == {"a": 1}
    pd.testing.assert_frame_equal(catalog.load("table"), table)
    assert catalog.load("memory") == 3
    assert names(tmp_path) == ["report.json", "table.parquet"]


def test_error_in_the_middle_of_writing_leaves_the_good_file(tmp_path, catalog):
    catalog.save("report", {"a": 1})
    with pytest.raises(DatasetError, match="not JSON serializable"):
        catalog.save("report", {"a": 2, "b": [0] * 10_000, "c": object()})
    assert catalog.load("report") == {"a": 1}
    assert names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_full_disk_and_interruption_leave_the_good_file(tmp_path, catalog, monkeypatch, error):
    table = pd.DataFrame({"x": [1, 2]})
    catalog.save("table", table)

    def write_half(self, file, **options):
        file.write(b"PAR1 half a file")
        raise error

    monkeypatch.setattr(pd.DataFrame, "to_parquet", write_half)
    with pytest.raises((DatasetError, KeyboardInterrupt), match=r"No space left|^$"):
        catalog.save("table", pd.DataFrame({"x": [3]}))
    pd.testing.assert_frame_equal(catalog.load("table"), table)
    assert names(tmp_path) == ["table.parquet"]


def test_leftover_of_a_killed_process_is_no_hindrance(tmp_path, catalog):
    (tmp_path / ".unfinished-report.json").write_text('{"half')
    catalog.save("report", {"a": 1})
    assert catalog.load("report") == {"a": 1}
    assert names(tmp_path) == ["report.json"]
