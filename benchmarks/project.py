"""What several benchmarks need: the parameters of conf, and raw files as a model input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def base_parameters(environment: str = "base", changes: dict[str, Any] | None = None) -> Any:
    """The checked parameters of ``conf/base`` (and another environment on top)."""
    from clickprompt.parameters import check_parameters

    return check_parameters(_configuration(environment, changes)["parameters"])


def catalog_entry(environment: str, name: str) -> dict[str, Any]:
    """An entry of an environment's catalog."""
    entry: dict[str, Any] = _configuration(environment)["catalog"][name]
    return entry


def _configuration(environment: str, changes: dict[str, Any] | None = None) -> Any:
    from kedro.config import OmegaConfigLoader

    from clickprompt.settings import CONFIG_LOADER_ARGS

    return OmegaConfigLoader(
        conf_source=str(REPOSITORY / "conf"),
        env=environment,
        runtime_params=changes or {},
        **CONFIG_LOADER_ARGS,
    )


def convert_files(files: Mapping[str, Path], folder: Path, parameters: Any) -> Any:
    """Read raw files and convert them into ``folder``: the model input."""
    from clickprompt import modality
    from clickprompt.plm import load_tokenizer
    from clickprompt.readers import read_interactions

    return modality.convert_interactions(
        read_interactions(files, parameters.data).interactions,
        parameters.data,
        load_tokenizer(parameters.plm),
        folder,
        max_tokens=parameters.plm.max_tokens or 512,
    )


def embedded_files() -> dict[str, Path]:
    """The raw files of the embedded data: name -> path."""
    raw = REPOSITORY / "data" / "01_raw" / "movielens_small"
    return {name: raw / name for name in ("ratings.csv", "movies.csv")}


def embedded_model_input(folder: Path, parameters: Any) -> tuple[Any, Any]:
    """Convert the embedded ratings into ``folder``: the model input, and the text of a row."""
    from clickprompt import modality
    from clickprompt.readers import read_interactions

    interactions = read_interactions(embedded_files(), parameters.data).interactions
    samples = modality.label_and_split(interactions, parameters.data)
    codes = modality.encode_fields(interactions, samples, parameters.data)
    texts = modality.build_text_view(codes, parameters.data)
    model_input = convert_files(embedded_files(), folder, parameters)
    return model_input, lambda row: texts.texts(codes.codes[row : row + 1])[0]
