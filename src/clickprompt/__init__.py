"""ClickPrompt for Kedro: click-through-rate prediction with language models."""

__version__ = "0.1.0"
