"""Trained models in use: a bundle, raw rows to probabilities, files, ONNX, MLflow, a page.

``write_bundle`` makes one folder of a trained model; ``Scorer(folder)`` needs nothing else. No
kedro in here, no pickle, and mlflow in ``mlflow_model`` only.
"""

from clickprompt.serving.bundle import Bundle, BundleError, write_bundle
from clickprompt.serving.scorer import Scored, Scorer

__all__ = ["Bundle", "BundleError", "Scored", "Scorer", "write_bundle"]
