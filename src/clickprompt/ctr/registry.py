"""From parameters to a CTR model: the one place that names the models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from clickprompt.ctr.autoint import AutoInt
from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.dcn import DCN
from clickprompt.ctr.dcnv2 import DCNv2
from clickprompt.ctr.deepfm import DeepFM
from clickprompt.ctr.dnn import DNN
from clickprompt.ctr.fgcnn import FGCNN
from clickprompt.ctr.fignn import FiGNN
from clickprompt.ctr.fm import FM
from clickprompt.ctr.pnn import PNN
from clickprompt.ctr.xdeepfm import XDeepFM
from clickprompt.parameters import CTRParameters

# Same names, same order as parameters.CTR_SIZES, which must not import torch.
REGISTRY: dict[str, type[CTRModel]] = {
    "fm": FM,
    "dnn": DNN,
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "pnn": PNN,
    "dcn": DCN,
    "autoint": AutoInt,
    "fignn": FiGNN,
    "fgcnn": FGCNN,
    "dcnv2": DCNv2,
}


def build_ctr(
    ctr: CTRParameters,
    field_sizes: Sequence[int],
    bags: Mapping[int, np.ndarray] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> CTRModel:
    """Build the CTR model that ``ctr`` names, with freshly drawn weights.

    The constructor is given those of the parameters that it names.

    Args:
        ctr: name, sizes and initialisation.
        field_sizes: table rows per field, the out-of-vocabulary row included.
        bags: members of the bag fields.
        generator: source of the initial weights; None: torch's own.

    Raises:
        ValueError: field sizes or bags that do not fit together.
    """
    model_class = REGISTRY[ctr.name]
    sizes = {
        name: value
        for name, value in ctr
        if name in inspect.signature(model_class.__init__).parameters
    }
    model = model_class(field_sizes=field_sizes, bags=bags, **sizes)
    model.initialise(generator, initialisation=ctr.initialisation, embedding_std=ctr.embedding_std)
    return model
