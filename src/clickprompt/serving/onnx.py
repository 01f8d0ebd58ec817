"""A bundle's model as an ONNX graph, for onnxruntime or any other runtime.

    python -m clickprompt.serving.onnx data/06_models/bundles/clickprompt_with_plm model.onnx

Opset 18. Inputs, all with a dynamic batch axis:

    x_id       (batch, fields)  int64   local ids, as a model input or `RowConverter` gives them
    token_ids  (batch, length)  int64   with a language model: the text, special tokens included,
    mask       (batch, length)  bool    and True on text, False on padding; length is dynamic too

Output ``logit`` (batch,) float32. The sigmoid is left to the caller, as everywhere in this project.

Letters: B rows, F fields, N tokens.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.modality import TextBatcher
from clickprompt.modality.raw_rows import ConvertedRows
from clickprompt.serving.bundle import Bundle
from clickprompt.training.objectives import TOKEN_MULTIPLE

OPSET = 18
EXAMPLE_ROWS = 3
NEEDED = "pip install -e '.[serve]'"


class _WithText(nn.Module):
    """The model with a mask in any case: a graph has no None."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_id: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
        logit_B: Tensor = self.model(x_id, token_ids, mask)
        return logit_B


class _IdsAlone(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_id: Tensor) -> Tensor:
        logit_B: Tensor = self.model(x_id)
        return logit_B


def export_onnx(folder: str | Path, target: str | Path) -> Path:
    """Write the model of a bundle as one ONNX file.

    Combinations of bag fields are those of training: their ids are numbers of a table in the graph.

    Args:
        folder: the bundle.
        target: the file.

    Raises:
        BundleError: see `Bundle.open`.
        ValueError: the packages of the extra ``serve`` are not there.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"an ONNX export needs the packages onnx and onnxscript, got none: {NEEDED}"
        ) from error
    bundle = Bundle.open(folder)
    model: Any = bundle.build()
    model.ctr.embedding.trusts_ids = True  # a graph cannot raise
    fields = len(bundle.vocabularies)
    batch = torch.export.Dim("batch", min=1)
    example: tuple[Tensor, ...] = (torch.zeros(EXAMPLE_ROWS, fields, dtype=torch.int64),)
    shapes: tuple[dict[int, Any], ...] = ({0: batch},)
    names = ["x_id"]
    wrapped: nn.Module = _IdsAlone(model)
    if bundle.has_plm:
        model.encoder.rectangular = True
        length = torch.export.Dim("length", min=2, max=bundle.max_tokens)
        width = min(7, bundle.max_tokens)
        token_ids_BN = torch.zeros(EXAMPLE_ROWS, width, dtype=torch.int64)
        mask_BN = torch.ones(EXAMPLE_ROWS, width, dtype=torch.bool)
        mask_BN[1, width - 2 :] = False
        example = (*example, token_ids_BN, mask_BN)
        shapes = (*shapes, {0: batch, 1: length}, {0: batch, 1: length})
        names += ["token_ids", "mask"]
        wrapped = _WithText(model)
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".unfinished-{target.name}")
    with _quiet():
        torch.onnx.export(
            wrapped.eval(),
            example,
            str(aside),
            input_names=names,
            output_names=["logit"],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    os.replace(aside, target)
    return target


class OnnxModel:
    """An exported model, run by onnxruntime.

    Args:
        path: the file.
        threads: of one step; None: onnxruntime's choice.

    Raises:
        ValueError: onnxruntime is not there.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"an ONNX model needs the package onnxruntime, got none: {NEEDED}"
            ) from error
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def logits(
        self,
        x_id_BF: np.ndarray,
        token_ids_BN: np.ndarray | None = None,
        length_B: np.ndarray | None = None,
    ) -> np.ndarray:
        """Logits (B,) float32 of prepared ids and, with a language model, texts."""
        given: dict[str, np.ndarray] = {"x_id": x_id_BF.astype(np.int64, copy=False)}
        if token_ids_BN is not None and length_B is not None:
            given["token_ids"] = token_ids_BN.astype(np.int64, copy=False)
            given["mask"] = np.arange(token_ids_BN.shape[1]) < length_B[:, None]
        logit_B: np.ndarray = self.session.run(["logit"], given)[0]
        return logit_B

    def logits_of(self, converted: ConvertedRows) -> np.ndarray:
        """Logits of rows that a `RowConverter` made; not of bag fields, whose ids are their own.

        Raises:
            ValueError: there are bag fields.
        """
        if converted.bags:
            raise ValueError(
                "rows for an ONNX model must have no bag fields, whose combinations are those of "
                f"training, got {len(converted.bags)}: use a Scorer"
            )
        if converted.texts is None:
            return self.logits(converted.ids)
        rows = np.arange(len(converted.ids))
        return self.logits(
            converted.ids, *TextBatcher(converted.texts).tokens(rows, TOKEN_MULTIPLE)
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own report says nothing to a user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="a folder of data/06_models/bundles")
    parser.add_argument("file", type=Path, help="the ONNX file")
    arguments = parser.parse_args()
    try:
        print(export_onnx(arguments.bundle, arguments.file))
    except ValueError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
