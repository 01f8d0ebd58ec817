"""RecBole's own preprocessing of one data set, timed; runs in RecBole's environment, not in ours.

    python run_recbole.py FOLDER NAME

FOLDER holds the atomic files of NAME (RecBole's own text format, made by ``inputs.py`` outside of
the timing). Timed is what ``recbole.quick_start.run_recbole`` does with them before it makes its
loaders: read, factorise every field, label, order by time, cut 8:1:1. The result stays in memory,
as by default; saving it would come on top. There is no text view.

Settings, with their source in RecBole 1.2.1:
- with an item file in FOLDER the features of a book stand once and are joined to the rows when a
  batch is taken, RecBole's own layout; without it all fields stand in every row, as in the table
  that our side reads. Both are measured;
- tokens for all fields, ``token_seq`` for genres: ids for all fields is what our side makes too;
- ``threshold``, ``eval_args``, ``train_neg_sample_args: null``: as for CTR models in
  ``properties/quick_start_config/context-aware.yaml``, with order TO and no grouping;
- ``user_inter_num_interval`` and ``item_inter_num_interval`` null, ``filter_inter_by_user_or_item``
  false: the defaults of ``properties/dataset/sample.yaml`` count rows for filters that keep
  everything; without them it is quicker.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main(folder: Path, name: str) -> dict[str, Any]:
    """Preprocess, then describe the result so that others can check it."""
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line
    from recbole.config import Config
    from recbole.data import create_dataset

    source_of = {path.suffix[1:]: path for path in sorted(folder.glob(f"{name}.*"))}
    columns = {
        kind: [field.split(":")[0] for field in path.open(encoding="utf-8").readline().split("\t")]
        for kind, path in source_of.items()
    }
    config = Config(
        model="FM",
        dataset=name,
        config_dict={
            "data_path": str(folder.resolve()),
            "checkpoint_dir": str(folder / "saved"),
            "use_gpu": False,
            "state": "WARNING",
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "book_id",
            "TIME_FIELD": "timestamp",
            "LABEL_FIELD": "label",
            "load_col": columns,
            "seq_separator": "|",
            "threshold": {"rating": 4},
            "eval_args": {
                "split": {"RS": [8, 1, 1]},
                "order": "TO",
                "group_by": None,
                "mode": "labeled",
            },
            "train_neg_sample_args": None,
            "user_inter_num_interval": None,
            "item_inter_num_interval": None,
            "filter_inter_by_user_or_item": False,
        },
    )
    # Config joins data_path and the name of the data set; the files lie in the folder itself
    config["data_path"] = str(folder.resolve())

    started = time.perf_counter()
    dataset = create_dataset(config)
    read = time.perf_counter()
    splits = dataset.build()
    seconds = time.perf_counter() - started
    peak = peak_megabytes()
    return {
        "seconds": round(seconds, 3),
        "seconds_by_step": {
            "dataset": round(read - started, 3),
            "build": round(seconds - (read - started), 3),
        },
        "own_peak_mb": peak,
        "rows": sum(len(split) for split in splits),
        "versions": {
            package: version(package) for package in ("recbole", "pandas", "numpy", "torch")
        },
        "facts": facts(dataset, splits),
    }


def facts(dataset: Any, splits: list[Any]) -> dict[str, Any]:
    """Rows and positives of each split, vocabulary sizes, and some rows turned back into text."""
    sequences = {field for field, kind in dataset.field2type.items() if kind.value == "token_seq"}
    tokens = [
        field
        for field in dataset.field2id_token
        if field in dataset.field2type  # its label replaced the rating
    ]
    samples = []
    for split in splits:
        rows = split[list(range(50))]  # joins the features of items
        for row in range(50):
            sample = {"label": int(rows["label"][row])}
            for field in tokens:
                ids = rows[field][row].reshape(-1).tolist()
                texts = [str(dataset.field2id_token[field][i]) for i in ids if i != 0]
                sample[field] = "|".join(texts) if texts else None
            samples.append(sample)
    return {
        "split_rows": [len(split) for split in splits],
        "positives": [int(split.inter_feat["label"].sum()) for split in splits],
        # id 0 is padding
        "vocabulary": {field: len(dataset.field2id_token[field]) - 1 for field in tokens},
        "multi_valued": sorted(sequences),
        "samples": samples,
    }


def peak_megabytes() -> int:
    """Peak resident memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024)
    raise OSError("/proc/self/status must have a line VmHWM, got none")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
