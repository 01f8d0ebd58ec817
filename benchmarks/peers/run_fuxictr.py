"""FuxiCTR's own preprocessing of one data set, timed; runs in FuxiCTR's environment, not in ours.

    python run_fuxictr.py FOLDER WAY TARGET

FOLDER holds ``train``, ``valid`` and ``test`` as Parquet, cut and labelled outside of the timing by
``inputs.py``: FuxiCTR's own cut (``split_train_test``) indexes lazy frames as pandas and fails.
Timed is: count every field's values on train, give them ids, write all splits as Parquet into
TARGET. There is no text view. WAY is one of

- ``one_file``: ``build_dataset`` by default, which sorts and writes each split as one file;
- ``blocks``: ``build_dataset`` with ``data_block_size``, which writes parts of
  100,000 rows, or of the smallest split;
- ``without_ray``: ``FeatureProcessor.fit`` and ``.transform`` called in this process on batches of
  100,000 rows, the size in ``preprocess/build_dataset.py``: a lower bound, which FuxiCTR does not
  offer by itself; ``build_dataset`` sends the batches through Ray.

Settings, with their source in FuxiCTR 2.3.10:
- ``type: categorical`` for all fields, ``sequence`` for genres, as its data set configurations;
- ``min_categr_count`` 1, its default: no value of train is left out, as on our side;
- Parquet, since ``FeatureProcessor.read_data`` reads CSV with an argument that Polars 2 has not;
- Ray has as many workers as ``build_dataset`` chooses, half the cores. Ray's start is timed: it
  is part of ``build_dataset``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics

SPLITS = ("train", "valid", "test")
BATCH_ROWS = 100_000


def main(folder: Path, way: str, target: Path) -> dict[str, Any]:
    """Preprocess, then describe the result so that others can check it."""
    import polars as pl
    import ray  # noqa: F401 - imported here, so that its import is not timed
    from fuxictr.preprocess import FeatureProcessor, build_dataset

    logging.basicConfig(level=logging.WARNING)
    files = {split: str(folder / f"{split}.parquet") for split in SPLITS}
    names = pl.scan_parquet(files["train"]).collect_schema().names()
    fields = [name for name in names if name != "label"]
    feature_cols: list[dict[str, Any]] = [
        {"name": name, "active": True, "dtype": "str", "type": "categorical"} for name in fields
    ]
    feature_cols[fields.index("genres")].update(type="sequence", splitter="|")
    encoder = FeatureProcessor(
        feature_cols=feature_cols,
        label_col={"name": "label", "dtype": "float"},
        dataset_id="goodreads",
        data_root=str(target),
    )

    # a split with fewer rows than a block would have no block at all, which Ray refuses
    lazy = [pl.scan_parquet(path) for path in files.values()]
    smallest = min(frame.select(pl.len()).collect().item() for frame in lazy)

    started = time.perf_counter()
    if way == "without_ray":
        convert_without_ray(encoder, files)
    else:
        build_dataset(
            encoder,
            train_data=files["train"],
            valid_data=files["valid"],
            test_data=files["test"],
            data_format="parquet",
            data_block_size={"one_file": 0, "blocks": min(BATCH_ROWS, smallest)}[way],
        )
    seconds = time.perf_counter() - started
    peak = peak_megabytes()
    found = facts(encoder, fields, target / "goodreads")
    return {
        "seconds": round(seconds, 3),
        "own_peak_mb": peak,
        "rows": sum(found["split_rows"]),
        "versions": {
            package: version(package) for package in ("fuxictr", "polars", "ray", "pandas", "numpy")
        },
        "facts": found,
    }


def convert_without_ray(encoder: Any, files: dict[str, str]) -> None:
    """Fit on train, transform every split in this process, write one Parquet file for each."""
    import polars as pl

    frames = {
        split: encoder.preprocess(encoder.read_data(path, data_format="parquet"))
        for split, path in files.items()
    }
    encoder.fit(frames["train"])
    for split, lazy in frames.items():
        frame = lazy.collect()
        parts = []
        for batch in frame.iter_slices(BATCH_ROWS):
            columns = {name: batch[name].to_numpy() for name in batch.columns}
            parts.append(pl.DataFrame(encoder.transform(columns)))
        pl.concat(parts).write_parquet(Path(encoder.data_dir) / f"{split}.parquet")


def facts(encoder: Any, fields: list[str], folder: Path) -> dict[str, Any]:
    """Rows and positives of each split, vocabulary sizes, and some rows turned back into text."""
    import polars as pl

    texts = {
        name: {
            number: text
            for text, number in encoder.processor_dict[f"{name}::tokenizer"].vocab.items()
        }
        for name in fields
    }
    frames = []
    for split in SPLITS:
        one = folder / f"{split}.parquet"
        frames.append(pl.read_parquet(one if one.exists() else folder / split / "*.parquet"))
    samples = []
    for frame in frames:
        for row in frame.head(50).to_dicts():
            sample: dict[str, Any] = {"label": int(row["label"])}
            for name in fields:
                ids = row[name] if isinstance(row[name], list) else [row[name]]
                known = [texts[name][i] for i in ids if i != 0]  # 0 is padding
                sample[name] = "|".join(known) if known else None
            samples.append(sample)
    # two more than the values of train: padding, and out-of-vocabulary, which also stands for
    # a missing value
    sizes = {name: encoder.feature_map.features[name]["vocab_size"] - 2 for name in fields}
    return {
        "split_rows": [len(frame) for frame in frames],
        "positives": [int(frame["label"].sum()) for frame in frames],
        "vocabulary": sizes,
        "multi_valued": ["genres"],
        "samples": samples,
    }


def peak_megabytes() -> int:
    """Peak resident memory of this process; Ray's are counted from outside."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024)
    raise OSError("/proc/self/status must have a line VmHWM, got none")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
