"""A bundle as an MLflow model: logged as code and files, so that nothing is pickled.

    mlflow models serve -m models:/clickprompt/1 --env-manager local --port 5001

The model holds the bundle, this package's code and pinned requirements. Every column is optional
and of any type: rows that cannot be scored are marked in the answer, and the others are answered.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType

import clickprompt
from clickprompt.serving.bundle import Bundle
from clickprompt.serving.scorer import Scorer

BUNDLE = "bundle"
MODEL_CODE = """\
from mlflow.models import set_model

from clickprompt.serving.mlflow_model import ClickModel

set_model(ClickModel())
"""

# What scoring imports, by the names that are installed; peft only for a model with adapters.
REQUIRED = (
    "mlflow",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "narwhals",
    "pydantic",
    "safetensors",
    "rich",
    "tokenizers",
    "transformers",
    "accelerate",
    "psutil",
    "scikit-learn",
    "scipy",
)


class ClickModel(PythonModel):
    """Raw rows to ``probability`` and ``reason``, in the order of the rows."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle."""
        self._scorer = Scorer(context.artifacts[BUNDLE])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score a table.

        Raises:
            MlflowException: it has none of the columns; the server then answers with status 400.
        """
        if not len(model_input.columns):  # MLflow has left out all others, and the rows with them
            raise MlflowException(
                f"rows must have at least one of the columns {', '.join(self._scorer.columns)}, "
                "got none",
                error_code=INVALID_PARAMETER_VALUE,
            )
        scored = self._scorer.score(model_input)
        frame = scored.frame()
        # JSON has no NaN: a row without a probability gets null.
        frame["probability"] = (
            frame["probability"].astype(object).where(~np.isnan(scored.probability), None)
        )
        return frame


def log_bundle(
    folder: Path,
    *,
    name: str,
    register_as: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Log a bundle as a model of the active run.

    Args:
        folder: the bundle.
        name: of the model inside the run.
        register_as: name in the registry, which gets a new version; None: not registered.
        metadata: what the model shall say of itself.

    Returns:
        The model's URI.

    Raises:
        BundleError: see `Bundle.open`.
    """
    bundle = Bundle.open(folder)
    with tempfile.TemporaryDirectory() as temporary:
        code = Path(temporary) / "click_model.py"
        code.write_text(MODEL_CODE, encoding="utf-8")
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(code),
            artifacts={BUNDLE: str(folder.resolve())},
            code_paths=[str(Path(clickprompt.__file__).parent)],
            pip_requirements=requirements(bundle),
            signature=signature(bundle),
            input_example=input_example(bundle),
            registered_model_name=register_as,
            metadata=dict(metadata or {}),
        )
    return str(logged.model_uri)


def requirements(bundle: Bundle) -> list[str]:
    """Pinned packages that the model needs; the versions are those that are installed here."""
    names = [*REQUIRED]
    plm = bundle.settings["parameters"].get("plm")
    if plm is not None and plm.get("lora") is not None:
        names.append("peft")
    # "+cpu" says which wheel is installed here; another machine has its own
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in names}
    return [f"{name}=={version}" for name, version in versions.items()]


def signature(bundle: Bundle) -> ModelSignature:
    """One optional column of any type a field; a probability and a reason."""
    columns = dict.fromkeys(field.column for field in bundle.data.fields)
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(AnyType(), name, required=False) for name in columns
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.double, "probability", required=False),
        ColSpec(DataType.string, "reason", required=False),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


def input_example(bundle: Bundle) -> pd.DataFrame:
    """Two rows of values that the model knows."""
    rows: list[dict[str, Any]] = [{}, {}]
    for vocabulary in bundle.vocabularies:
        known: list[Any] = [value for value in vocabulary.values if value is not None][:2]
        known = known or list(vocabulary.edges[:2]) or [0]
        for number, row in enumerate(rows):
            row[vocabulary.field.column] = known[min(number, len(known) - 1)]
    return pd.DataFrame(rows)
