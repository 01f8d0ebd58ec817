"""CTR models: ids in, a representation and a logit out; they know nothing of text.

``build_ctr(ctr, field_sizes, bags)`` makes the model that the parameters name. A model is one
file with one subclass of :class:`CTRModel`, and one line in :mod:`clickprompt.ctr.registry`.
"""

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.embedding import FeatureEmbedding
from clickprompt.ctr.registry import REGISTRY, build_ctr

__all__ = ["REGISTRY", "CTRModel", "FeatureEmbedding", "build_ctr"]
