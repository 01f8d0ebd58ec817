"""Language models that read prompts: loading, prompted attention, heads, pooling.

`load_encoder` and `load_tokenizer` take `clickprompt.parameters.PLMParameters`;
`PromptedEncoder`, `MLMHead` and `pool` are plain torch. Importing this package imports
torch; `clickprompt.plm.source` alone does not.
"""

from clickprompt.plm.encoder import PromptedEncoder, load_encoder
from clickprompt.plm.head import POOLINGS, MLMHead, load_mlm_head, pool
from clickprompt.plm.source import PLMSource, load_tokenizer, resolve_source

__all__ = [
    "POOLINGS",
    "MLMHead",
    "PLMSource",
    "PromptedEncoder",
    "load_encoder",
    "load_mlm_head",
    "load_tokenizer",
    "pool",
    "resolve_source",
]
