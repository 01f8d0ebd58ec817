"""Other ways to use text for clicks: the models that ClickPrompt is compared with.

docs/baselines.md says what each paper did, and what is simplified here.
"""

from clickprompt.baselines.ctr_bert import CTRBert
from clickprompt.baselines.ctrl import CTRLForAlignment, info_nce
from clickprompt.baselines.p5 import P5, load_t5, question_tokens, random_t5
from clickprompt.baselines.ptab import PTab
from clickprompt.baselines.text_features import TextFeatureCTR, encode_pieces

__all__ = [
    "P5",
    "CTRBert",
    "CTRLForAlignment",
    "PTab",
    "TextFeatureCTR",
    "encode_pieces",
    "info_nce",
    "load_t5",
    "question_tokens",
    "random_t5",
]
