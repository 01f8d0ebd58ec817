"""ClickPrompt: the CTR model writes prompts for the PLM; for pretraining and for clicks."""

from clickprompt.models.clickprompt import (
    ClickPromptForClicks,
    ClickPromptForPretraining,
    CTRForClicks,
    MaskedIdHead,
    MaskedIds,
)

__all__ = [
    "CTRForClicks",
    "ClickPromptForClicks",
    "ClickPromptForPretraining",
    "MaskedIdHead",
    "MaskedIds",
]
