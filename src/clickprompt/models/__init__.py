"""ClickPrompt: the CTR model writes prompts for the PLM; for pretraining and for clicks."""

from clickprompt.models.clickprompt import (
    ClickPromptForClicks,
    ClickPromptForPretraining,
    CTRForClicks,
)

__all__ = ["CTRForClicks", "ClickPromptForClicks", "ClickPromptForPretraining"]
