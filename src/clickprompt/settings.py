"""Project settings: hooks, how configuration is merged, the catalog's class."""

from clickprompt.config_loader import CheckedConfigLoader
from clickprompt.datasets import WholeFileCatalog
from clickprompt.hooks import ParametersHook, PartHook, SparkHook, TrackingHook

HOOKS = (ParametersHook(), SparkHook(), PartHook(), TrackingHook())

# TrackingHook stands in for the plugin's own hook, which logs typed parameters as one string.
# The name is the distribution's, with an underscore.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)

DATA_CATALOG_CLASS = WholeFileCatalog

CONFIG_LOADER_CLASS = CheckedConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {
        "mlflow": ["mlflow*", "mlflow*/**", "**/mlflow*"],
        "spark": ["spark*", "spark*/**"],
    },
    # An environment names only the parameters that differ from conf/base.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft"},
}
