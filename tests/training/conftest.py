from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clickprompt.modality import ModelInput
from clickprompt.parameters import PLMParameters
from tests.training.tiny_run import make_inputs


@pytest.fixture(scope="session")
def inputs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def model_input(inputs_folder: Path) -> ModelInput:
    return ModelInput.open(inputs_folder / "model_input")


@pytest.fixture(scope="session")
def plm(inputs_folder: Path) -> PLMParameters:
    return PLMParameters(source=str(inputs_folder / "plm"), keep_layers=None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
