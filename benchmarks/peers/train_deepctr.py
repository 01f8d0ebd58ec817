"""CTR models of DeepCTR-Torch, trained and timed; runs in DeepCTR-Torch's environment.

    python -m benchmarks.peers.train_deepctr FOLDER [RAW_MODEL]

FOLDER holds ``clicks.csv``. Without RAW_MODEL it answers the requests of ``turns.py``: training is
``model.fit`` and inference ``model.predict``, both with the loader that they make themselves. With
it, one run from the raw file to the trained model is timed.

Settings, with their source in DeepCTR-Torch 0.3.0:
- reading and numbering by pandas and scikit-learn's ``LabelEncoder``, as in its examples
  (``run_classification_criteo.py``): it has no preprocessing of its own;
- no regularisation (``l2_reg_*`` 0), no dropout and no batch norm: its defaults but for the first;
- ``compile`` is given torch's Adam, fused, which is quicker here than the one that the name
  ``adam`` stands for;
- ``verbose=0``: no metrics on train batches, no progress bar;
- DCNv2 is ``DCN(cross_parameterization="matrix")``; xDeepFM has ``cin_split_half=False`` and
  no activation in CIN; AutoInt has one head. Linear columns are given to DeepFM and xDeepFM, whose
  papers have a linear term, and to no other.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import ctr_sizes as sizes
from benchmarks.peers.turns import serve


class DeepCTRTorch:
    """Models by name over one coded table.

    Args:
        folder: of ``clicks.csv``.
    """

    def __init__(self, folder: Path) -> None:
        import pandas as pd
        from deepctr_torch.inputs import SparseFeat
        from sklearn.preprocessing import LabelEncoder

        table = pd.read_csv(folder / "clicks.csv")
        self._columns = []
        for field in sizes.FIELDS:
            table[field] = LabelEncoder().fit_transform(table[field])
            size = int(table[field].max()) + 1
            self._columns.append(
                SparseFeat(field, vocabulary_size=size, embedding_dim=sizes.EMBEDDING_SIZE)
            )
        self._splits = {
            split: (
                {field: part[field].to_numpy() for field in sizes.FIELDS},
                part["label"].to_numpy(),
            )
            for split, part in table.groupby("split")
        }
        self._models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        """The model of this name, compiled."""
        if name not in self._models:
            self._models[name] = _build(name, self._columns)
        return self._models[name]

    def parameters(self, model: str, precision: str) -> dict[str, int]:
        built = self.model(model)
        table = sum(weight.numel() for weight in built.embedding_dict.parameters())
        return {"table": table, "rest": sum(p.numel() for p in built.parameters()) - table}

    def train(self, model: str, precision: str, rows: int) -> float:
        fields, labels = self._splits["train"]
        part = {name: values[:rows] for name, values in fields.items()}
        built = self.model(model)
        started = time.perf_counter()
        built.fit(part, labels[:rows], batch_size=sizes.BATCH_SIZE, epochs=1, verbose=0)
        return time.perf_counter() - started

    def predict(self, model: str, precision: str) -> tuple[int, float]:
        built, rows, seconds = self.model(model), 0, 0.0
        for split in ("valid", "test"):
            fields, labels = self._splits[split]
            started = time.perf_counter()
            built.predict(dict(fields), batch_size=sizes.BATCH_SIZE)
            seconds += time.perf_counter() - started
            rows += len(labels)
        return rows, seconds

    def train_epoch_and_validate(self, model: str) -> float:
        """One epoch on train; the AUC on valid."""
        fields, labels = self._splits["train"]
        built = self.model(model)
        history = built.fit(
            dict(fields),
            labels,
            batch_size=sizes.BATCH_SIZE,
            epochs=1,
            verbose=0,
            validation_data=self._splits["valid"],
        )
        return float(history.history["val_auc"][-1])

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("deepctr-torch", "torch", "numpy", "pandas")}


def _build(name: str, columns: list[Any]) -> Any:
    import torch
    from deepctr_torch.models import DCN, AutoInt, DeepFM, xDeepFM

    hidden = list(sizes.HIDDEN_SIZES)
    common = {"dnn_hidden_units": hidden, "l2_reg_embedding": 0, "l2_reg_dnn": 0}
    if name == "deepfm":
        model = DeepFM(columns, columns, l2_reg_linear=0, **common)
    elif name == "dcnv2":
        model = DCN(
            [],
            columns,
            cross_num=sizes.CROSS_LAYERS,
            cross_parameterization="matrix",
            l2_reg_linear=0,
            l2_reg_cross=0,
            **common,
        )
    elif name == "autoint":
        model = AutoInt([], columns, att_layer_num=sizes.ATTENTION_LAYERS, att_head_num=1, **common)
    else:
        model = xDeepFM(
            columns,
            columns,
            cin_layer_size=list(sizes.CIN_SIZES),
            cin_split_half=False,
            cin_activation="linear",
            l2_reg_linear=0,
            **common,
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.LEARNING_RATE, fused=True)
    model.compile(optimizer, "binary_crossentropy", metrics=["auc"])
    return model


def prepare_import() -> None:
    """Import the library; the question for a newer version that its import sends is not sent."""
    import requests

    def refuse(*_: object, **__: object) -> None:
        raise requests.ConnectionError

    requests.get = refuse
    import deepctr_torch.models  # noqa: F401


def raw_to_trained(folder: Path, model: str) -> dict[str, Any]:
    """Seconds without imports from the raw file to the model after one epoch, and its valid AUC."""
    started = time.perf_counter()
    library = DeepCTRTorch(folder)
    auc = library.train_epoch_and_validate(model)
    return {"seconds": time.perf_counter() - started, "valid_auc": auc}


def main() -> None:
    """Answer requests, or time one run from the raw file."""
    source = Path(sys.argv[1])
    if not sys.argv[2:]:
        serve(lambda: prepare_import() or DeepCTRTorch(source))
        return
    prepare_import()
    import pandas  # noqa: F401 - imports are not timed
    import sklearn.preprocessing  # noqa: F401

    print("\n" + json.dumps(raw_to_trained(source, sys.argv[2])))


if __name__ == "__main__":
    main()
