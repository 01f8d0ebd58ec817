"""CTR models of RecBole, trained and timed; runs in RecBole's environment, not in ours.

    python -m benchmarks.peers.train_recbole FOLDER [RAW_MODEL]

FOLDER holds ``clicks.train.inter``, ``clicks.valid.inter`` and ``clicks.test.inter``. Without
RAW_MODEL it answers the requests of ``turns.py``: training is ``Trainer._train_epoch`` over a
``TrainDataLoader``, inference is what ``Trainer.evaluate`` does with each batch. With it, one run
from the raw files to the trained model is timed.

Settings, with their source in RecBole 1.2.1:
- ``benchmark_filename``: the split is given, as the same for all;
- all fields in the interaction files: no features are joined when a batch is taken;
- ``worker`` 0, its default: a batch is one indexing of tensors;
- ``eval_args.mode: labeled``, ``train_neg_sample_args: null``, ``metrics: [AUC]``: as in
  ``properties/quick_start_config/context-aware.yaml``;
- ``reproducibility: false``: ``init_seed`` would ask for deterministic kernels;
- no dropout, no regularisation; ``direct: true`` gives xDeepFM's CIN whole layers; ``structure:
  parallel`` and ``mixed: false`` give DCNv2. Batch norm in DCNv2's deep part, the linear
  term of every model, biases in AutoInt's attention and ReLU in CIN cannot be switched off;
- Adam is torch's default: the trainer takes no other form of it;
- the precision bf16 is ``enable_amp``, torch's autocast; it covers training only.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import ctr_sizes as sizes
from benchmarks.peers.turns import serve

NAMES = {"deepfm": "DeepFM", "dcnv2": "DCNV2", "autoint": "AutoInt", "xdeepfm": "xDeepFM"}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "deepfm": {"dropout_prob": 0.0},
    "dcnv2": {
        "mixed": False,
        "structure": "parallel",
        "cross_layer_num": sizes.CROSS_LAYERS,
        "reg_weight": 0,
        "dropout_prob": 0.0,
    },
    "autoint": {
        "attention_size": sizes.EMBEDDING_SIZE,
        "n_layers": sizes.ATTENTION_LAYERS,
        "num_heads": 1,
        "dropout_probs": [0.0, 0.0, 0.0],
        "has_residual": True,
    },
    "xdeepfm": {
        "direct": True,
        "cin_layer_size": list(sizes.CIN_SIZES),
        "reg_weight": 0,
        "dropout_prob": 0.0,
    },
}


class RecBole:
    """Models by name over one data set.

    Args:
        folder: of the ``.inter`` files.
        model: whose configuration the data set is read with.
    """

    def __init__(self, folder: Path, model: str = "deepfm") -> None:
        from recbole.data import create_dataset, data_preparation

        self._folder = folder
        self._config = _config(folder, model)
        self._train, self._valid, self._test = data_preparation(
            self._config, create_dataset(self._config)
        )
        self._trainers: dict[tuple[str, str], Any] = {}

    def trainer(self, name: str, precision: str = "float32") -> Any:
        """The trainer of a model of this name, which it holds."""
        if (name, precision) not in self._trainers:
            from recbole.utils import get_model, get_trainer

            config = _config(self._folder, name, precision)
            model = get_model(NAMES[name])(config, self._train._dataset)
            trainer = get_trainer(config["MODEL_TYPE"], NAMES[name])(config, model)
            self._trainers[name, precision] = trainer
        return self._trainers[name, precision]

    def parameters(self, model: str, precision: str) -> dict[str, int]:
        built = self.trainer(model, precision).model
        table = sum(p.numel() for p in built.token_embedding_table.parameters())
        return {"table": table, "rest": sum(p.numel() for p in built.parameters()) - table}

    def train(self, model: str, precision: str, rows: int) -> float:
        from recbole.data.dataloader import TrainDataLoader

        trainer = self.trainer(model, precision)
        whole = self._train._dataset
        part = whole.copy(whole.inter_feat[slice(0, rows)])
        loader = TrainDataLoader(self._config, part, None, shuffle=True)
        started = time.perf_counter()
        trainer._train_epoch(loader, 0)
        return time.perf_counter() - started

    def predict(self, model: str, precision: str) -> tuple[int, float]:
        import torch

        trainer, rows = self.trainer(model, precision), 0
        started = time.perf_counter()
        trainer.model.eval()
        with torch.no_grad():
            for loader in (self._valid, self._test):
                scores = [trainer._neg_sample_batch_eval(batch)[1] for batch in loader]
                rows += len(torch.cat(scores).numpy())
        return rows, time.perf_counter() - started

    def train_epoch_and_validate(self, model: str) -> float:
        """One epoch on train; the AUC on valid."""
        score, _ = self.trainer(model).fit(
            self._train, self._valid, verbose=False, saved=False, show_progress=False
        )
        return float(score)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("recbole", "torch", "numpy", "pandas")}


def _config(folder: Path, name: str, precision: str = "float32") -> Any:
    from recbole.config import Config
    from recbole.utils import init_seed

    config = Config(
        model=NAMES[name],
        dataset="clicks",
        config_dict={
            "data_path": str(folder.resolve()),
            "checkpoint_dir": str(folder / "recbole"),
            "benchmark_filename": ["train", "valid", "test"],
            "use_gpu": False,
            "state": "WARNING",
            "reproducibility": False,
            "show_progress": False,
            "enable_amp": precision == "bf16",
            "USER_ID_FIELD": "user_id",
            "ITEM_ID_FIELD": "movie_id",
            "TIME_FIELD": None,
            "LABEL_FIELD": "label",
            "load_col": {"inter": [*sizes.FIELDS, "label"]},
            "eval_args": {
                "split": {"RS": [8, 1, 1]},
                "order": "RO",
                "group_by": None,
                "mode": "labeled",
            },
            "train_neg_sample_args": None,
            "metrics": ["AUC"],
            "valid_metric": "AUC",
            "epochs": 1,
            "train_batch_size": sizes.BATCH_SIZE,
            "eval_batch_size": sizes.BATCH_SIZE,
            "learning_rate": sizes.LEARNING_RATE,
            "embedding_size": sizes.EMBEDDING_SIZE,
            "mlp_hidden_size": list(sizes.HIDDEN_SIZES),
            "user_inter_num_interval": None,
            "item_inter_num_interval": None,
            "filter_inter_by_user_or_item": False,
            **OWN_SIZES[name],
        },
    )
    # Config joins data_path and the name of the data set; the files lie in the folder itself
    config["data_path"] = str(folder.resolve())
    init_seed(config["seed"], config["reproducibility"])
    return config


def raw_to_trained(folder: Path, model: str) -> dict[str, Any]:
    """Seconds without imports from the raw files to the model after one epoch, and its AUC."""
    started = time.perf_counter()
    library = RecBole(folder, model)
    auc = library.train_epoch_and_validate(model)
    return {"seconds": time.perf_counter() - started, "valid_auc": auc}


def main() -> None:
    """Answer requests, or time one run from the raw files."""
    arguments, sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole's Config reads the command line
    source = Path(arguments[0])
    if not arguments[1:]:
        serve(lambda: RecBole(source))
        return
    for module in ("data", "model.context_aware_recommender", "trainer"):
        import_module(f"recbole.{module}")  # imports are not timed
    print("\n" + json.dumps(raw_to_trained(source, arguments[1])))


if __name__ == "__main__":
    main()
