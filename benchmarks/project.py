"""What several benchmarks need: the base parameters and the embedded data as a model input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def base_parameters(environment: str = "base", changes: dict[str, Any] | None = None) -> Any:
    """The checked parameters of ``conf/base`` (and another environment on top)."""
    from kedro.config import OmegaConfigLoader

    from clickprompt.parameters import check_parameters
    from clickprompt.settings import CONFIG_LOADER_ARGS

    loader = OmegaConfigLoader(
        conf_source=str(REPOSITORY / "conf"),
        env=environment,
        runtime_params=changes or {},
        **CONFIG_LOADER_ARGS,
    )
    return check_parameters(loader["parameters"])


def embedded_model_input(folder: Path, parameters: Any) -> tuple[Any, Any]:
    """Convert the embedded ratings into ``folder``: the model input, and the text of a row."""
    from clickprompt import modality
    from clickprompt.plm import load_tokenizer
    from clickprompt.readers import read_interactions

    raw = REPOSITORY / "data" / "01_raw" / "movielens_small"
    files = {name: raw / name for name in ("ratings.csv", "movies.csv")}
    interactions = read_interactions(files, parameters.data).interactions
    samples = modality.label_and_split(interactions, parameters.data)
    codes = modality.encode_fields(interactions, samples, parameters.data)
    texts = modality.build_text_view(codes, parameters.data)
    model_input = modality.convert_interactions(
        interactions,
        parameters.data,
        load_tokenizer(parameters.plm),
        folder,
        max_tokens=parameters.plm.max_tokens or 512,
    )
    return model_input, lambda row: texts.texts(codes.codes[row : row + 1])[0]
