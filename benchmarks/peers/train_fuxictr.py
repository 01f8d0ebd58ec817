"""CTR models of FuxiCTR's layers, trained and timed; runs in FuxiCTR's environment, not in ours.

    python -m benchmarks.peers.train_fuxictr FOLDER [RAW_MODEL]

FOLDER holds ``train.csv``, ``valid.csv`` and ``test.csv``. Without RAW_MODEL it answers the
requests of ``turns.py``: training is ``BaseModel.train_epoch`` and inference
``BaseModel.predict`` over an ``NpzDataLoader``. With it, one run from the raw files to the trained
model is timed.

Settings, with their source in FuxiCTR 2.3.10:
- the package has layers, loops and loaders, but its model zoo only for long sequences, so the
  models are put together here from its layers: ``FeatureEmbedding``, ``FactorizationMachine``,
  ``CrossNetV2``, ``CompressedInteractionNet``, ``ScaledDotProductAttention``,
  ``LogisticRegression``, ``MLP_Block``. DeepFM and xDeepFM have the linear term of their papers;
- ``NpzDataLoader`` with ``num_workers=0``: the arrays are in memory, where ``ParquetDataLoader``
  hands rows over from Ray. FuxiCTR writes Parquet; the arrays are put into ``.npz`` here, which
  the timing of the raw files includes;
- ``verbose=0``, no regularisation, no dropout, no batch norm; ``max_gradient_norm=10``, its default
  of ``fit``, which cannot be switched off; Adam is torch's default: it takes a name only;
- the evaluation inside of ``train_epoch`` is put off beyond the end by ``_eval_steps`` where
  training alone is timed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import ctr_sizes as sizes
from benchmarks.peers.turns import serve

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics

SPLITS = ("train", "valid", "test")


class FuxiCTR:
    """Models by name over one coded data set.

    Args:
        folder: of the CSV files.
        target: where FuxiCTR writes what it makes of them; taken as it is if it is there.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        from fuxictr.features import FeatureMap

        if not (target / "clicks" / "test.npz").exists():
            _preprocess(folder, target)
        self._data = target / "clicks"
        self._map = FeatureMap("clicks", str(self._data))
        self._map.load(str(self._data / "feature_map.json"), {})
        self._models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        """The model of this name."""
        if name not in self._models:
            self._models[name] = models()[name](self._map, self._data)
        return self._models[name]

    def parameters(self, model: str, precision: str) -> dict[str, int]:
        built = self.model(model)
        table = sum(weight.numel() for weight in built.embedding.parameters())
        return {"table": table, "rest": sum(p.numel() for p in built.parameters()) - table}

    def train(self, model: str, precision: str, rows: int) -> float:
        built, loader = self.model(model), self._loader("train", shuffle=True)
        loader.dataset.darray = loader.dataset.darray[:rows]
        # as BaseModel.fit sets them
        built._max_gradient_norm, built._total_steps, built._stop_training = 10.0, 0, False
        built._eval_steps = sys.maxsize
        started = time.perf_counter()
        built.train_epoch(loader)
        return time.perf_counter() - started

    def predict(self, model: str, precision: str) -> tuple[int, float]:
        built, rows, seconds = self.model(model), 0, 0.0
        for split in ("valid", "test"):
            loader = self._loader(split)
            started = time.perf_counter()
            rows += len(built.predict(loader))
            seconds += time.perf_counter() - started
        return rows, seconds

    def train_epoch_and_validate(self, model: str) -> float:
        """One epoch on train; the AUC on valid."""
        built = self.model(model)
        valid = self._loader("valid")
        built.fit(self._loader("train", shuffle=True), epochs=1, validation_data=valid)
        return float(built._best_metric)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("fuxictr", "torch", "numpy", "polars", "ray")}

    def _loader(self, split: str, shuffle: bool = False) -> Any:
        from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

        return NpzDataLoader(
            self._map,
            str(self._data / f"{split}.npz"),
            batch_size=sizes.BATCH_SIZE,
            shuffle=shuffle,
            num_workers=0,
        )


def _preprocess(folder: Path, target: Path) -> None:
    """FuxiCTR's ``build_dataset`` from CSV to Parquet, and its arrays as ``.npz``."""
    import numpy as np
    import polars as pl
    from fuxictr.preprocess import FeatureProcessor, build_dataset

    encoder = FeatureProcessor(
        feature_cols=[
            {"name": name, "active": True, "dtype": "str", "type": "categorical"}
            for name in sizes.FIELDS
        ],
        label_col={"name": "label", "dtype": "int"},
        dataset_id="clicks",
        data_root=str(target),
    )
    files = {f"{split}_data": str(folder / f"{split}.csv") for split in SPLITS}
    build_dataset(encoder, data_format="csv", **files)
    for split in SPLITS:
        table = pl.read_parquet(target / "clicks" / f"{split}.parquet")
        arrays = {name: table[name].to_numpy() for name in [*sizes.FIELDS, "label"]}
        np.savez(target / "clicks" / f"{split}.npz", **arrays)


def models() -> dict[str, Any]:
    """Name -> class; the classes need FuxiCTR, which only its own environment has."""
    import torch
    from fuxictr.pytorch import layers
    from fuxictr.pytorch.models import BaseModel
    from torch import nn

    hidden = list(sizes.HIDDEN_SIZES)

    class Model(BaseModel):
        """What the models share: the embedding, the click's probability, Adam."""

        def __init__(self, feature_map: Any, folder: Path) -> None:
            super().__init__(
                feature_map,
                model_id=type(self).__name__,
                verbose=0,
                metrics=["AUC"],
                model_root=str(folder.parent),
            )
            self.embedding = layers.FeatureEmbedding(feature_map, sizes.EMBEDDING_SIZE)
            self.fields = feature_map.num_fields
            self.width = self.fields * sizes.EMBEDDING_SIZE
            self.make_layers(feature_map)
            self.compile("adam", "binary_crossentropy", sizes.LEARNING_RATE)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> dict[str, Any]:
            features = self.get_inputs(inputs)
            logit = self.logit(features, self.embedding(features))
            return {"y_pred": self.output_activation(logit)}

    class DeepFM(Model):
        def make_layers(self, feature_map: Any) -> None:
            self.fm = layers.FactorizationMachine(feature_map)
            self.deep = layers.MLP_Block(input_dim=self.width, hidden_units=hidden, output_dim=1)

        def logit(self, features: Any, x_BFE: Any) -> Any:
            return self.fm(features, x_BFE) + self.deep(x_BFE.flatten(start_dim=1))

    class DCNv2(Model):
        def make_layers(self, feature_map: Any) -> None:
            self.cross = layers.CrossNetV2(self.width, sizes.CROSS_LAYERS)
            self.deep = layers.MLP_Block(input_dim=self.width, hidden_units=hidden)
            self.head = nn.Linear(self.width + hidden[-1], 1)

        def logit(self, features: Any, x_BFE: Any) -> Any:
            x_BX = x_BFE.flatten(start_dim=1)
            return self.head(torch.cat([self.cross(x_BX), self.deep(x_BX)], dim=-1))

    class Attention(nn.Module):
        """AutoInt's interacting layer around FuxiCTR's dot-product attention; one head."""

        def __init__(self) -> None:
            super().__init__()
            size = sizes.EMBEDDING_SIZE
            self.query = nn.Linear(size, size, bias=False)
            self.key = nn.Linear(size, size, bias=False)
            self.value = nn.Linear(size, size, bias=False)
            self.attention = layers.ScaledDotProductAttention()

        def forward(self, x_BFE: Any) -> Any:
            out_BFE, _ = self.attention(self.query(x_BFE), self.key(x_BFE), self.value(x_BFE))
            return (out_BFE + x_BFE).relu()

    class AutoInt(Model):
        def make_layers(self, feature_map: Any) -> None:
            self.attention = nn.Sequential(*(Attention() for _ in range(sizes.ATTENTION_LAYERS)))
            self.deep = layers.MLP_Block(input_dim=self.width, hidden_units=hidden, output_dim=1)
            self.head = nn.Linear(self.width, 1)

        def logit(self, features: Any, x_BFE: Any) -> Any:
            out_BX = self.attention(x_BFE).flatten(start_dim=1)
            return self.head(out_BX) + self.deep(x_BFE.flatten(start_dim=1))

    class XDeepFM(Model):
        def make_layers(self, feature_map: Any) -> None:
            self.cin = layers.CompressedInteractionNet(self.fields, list(sizes.CIN_SIZES))
            self.linear = layers.LogisticRegression(feature_map, use_bias=False)
            self.deep = layers.MLP_Block(input_dim=self.width, hidden_units=hidden, output_dim=1)

        def logit(self, features: Any, x_BFE: Any) -> Any:
            deep_B1 = self.deep(x_BFE.flatten(start_dim=1))
            return self.cin(x_BFE) + self.linear(features) + deep_B1

    return {"deepfm": DeepFM, "dcnv2": DCNv2, "autoint": AutoInt, "xdeepfm": XDeepFM}


def prepare_import() -> None:
    """Import the library, and let it read CSV under Polars 2."""
    import fuxictr.preprocess
    import fuxictr.pytorch.models  # noqa: F401
    import polars as pl

    logging.basicConfig(level=logging.WARNING)
    scan_csv = pl.scan_csv

    def scan(*arguments: Any, dtypes: Any = None, **options: Any) -> Any:
        # FeatureProcessor.read_data gives the types under the name that Polars 1 had for them
        return scan_csv(*arguments, schema_overrides=dtypes, **options)

    pl.scan_csv = scan


def raw_to_trained(folder: Path, model: str) -> dict[str, Any]:
    """Seconds without imports from the raw files to the model after one epoch, and its AUC."""
    target = folder / "fuxictr_raw"
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    library = FuxiCTR(folder, target)
    auc = library.train_epoch_and_validate(model)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return {"seconds": seconds, "valid_auc": auc}


def main() -> None:
    """Answer requests, or time one run from the raw files."""
    source = Path(sys.argv[1])
    if not sys.argv[2:]:
        serve(lambda: prepare_import() or FuxiCTR(source, source / "fuxictr"))
        return
    prepare_import()
    print("\n" + json.dumps(raw_to_trained(source, sys.argv[2])))


if __name__ == "__main__":
    main()
