"""The language model of a trained stage as a folder of its own.

    python -m clickprompt.training.export data/06_models/pretrained.json data/plm/adapted

The folder is in the format of transformers: ``plm.source`` can name it, and so can
``AutoModel.from_pretrained``. Adapters (``plm.lora``) are added into the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clickprompt.files import replace_folder
from clickprompt.parameters import PLMParameters
from clickprompt.plm import load_encoder, load_tokenizer, merge_lora
from clickprompt.plm.source import quiet_transformers
from clickprompt.training.files import check_folder, load_tensors
from clickprompt.training.result import TrainedModel


def export_plm(trained: TrainedModel, folder: Path) -> None:
    """Write configuration, weights and tokenizer of the stage's language model.

    The head for masked tokens is not part of it, nor are CTR model and prompt generator.

    Args:
        trained: pretraining, or finetuning with the PLM.
        folder: an older one is replaced.

    Raises:
        ValueError: the stage has no language model.
        DamagedFolderError: its weights were changed after they were written.
    """
    settings = trained.report["parameters"].get("plm")
    if settings is None:
        raise ValueError(f"the stage must have a language model, got {trained.stage!r}")
    check_folder(Path(trained.folder))
    plm = PLMParameters.model_validate(settings)
    encoder = load_encoder(plm)
    own = {
        name.removeprefix("encoder."): tensor
        for name, tensor in load_tensors(trained.weights_path).items()
        if name.startswith("encoder.")
    }
    encoder.load_state_dict(own)
    merge_lora(encoder)
    model: Any = encoder.model

    def write(aside: Path) -> None:
        with quiet_transformers():
            model.save_pretrained(aside)
            load_tokenizer(plm).save_pretrained(aside)

    replace_folder(folder, write)


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path, help="the stage's JSON file in data/06_models")
    parser.add_argument("folder", type=Path, help="where the language model goes")
    arguments = parser.parse_args()
    text = arguments.trained.read_text(encoding="utf-8")
    export_plm(TrainedModel.model_validate_json(text), arguments.folder)
    print(arguments.folder)


if __name__ == "__main__":
    main()
