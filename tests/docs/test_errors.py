"""The guide's common errors are those that are really raised, word for word.

A ``...`` of the guide stands for a part that varies.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

from clickprompt import modality
from clickprompt.cli import explain
from clickprompt.datasets import RawFilesDataset
from clickprompt.parameters import ProjectParameters, check_parameters
from clickprompt.readers import read_interactions
from clickprompt.training.result import TrainedModel
from clickprompt.tuning import TunedStudy, check_space, tune, write_environment
from tests.docs.pages import REPOSITORY, blocks, read
from tests.docs.test_readme import configuration

PAGE = "docs/user-guide.md"
HEADER = "userId,movieId,rating,timestamp\n"
RATINGS = HEADER + "".join(f"{user},1,{5 if user % 2 else 1},{user}\n" for user in range(40))


def parameters(**changes: Any) -> ProjectParameters:
    return check_parameters(configuration("base", **changes)["parameters"])


def load_raw_files(environment: str) -> None:
    entry = dict(configuration(environment)["catalog"]["raw_files"])
    del entry["type"]
    RawFilesDataset(**entry).load()


def interactions(ratings: str) -> Any:
    Path("ratings.csv").write_text(ratings)
    Path("movies.csv").write_text("movieId,title,genres\n1,Heat (1995),Action\n")
    files = {name: Path(name) for name in ("ratings.csv", "movies.csv")}
    return read_interactions(files, parameters().data).interactions


def samples(rows: int = 40, **data: Any) -> Any:
    return modality.label_and_split(interactions(RATINGS).head(rows), parameters(data=data).data)


def unknown_environment() -> None:
    from clickprompt.cli import run

    context = run.make_context("run", ["--env=movielens_2m"])
    with chdir(REPOSITORY):
        run.invoke(context)


def damaged_embedded_files() -> None:
    folder = Path("data/01_raw/movielens_small")
    folder.mkdir(parents=True)
    for name in ("ratings.csv", "movies.csv"):
        (folder / name).write_text("x")
    load_raw_files("base")


def language_model(
    weights: str = "model.safetensors", family: str = "bert", sha256: str | None = None
) -> None:
    from clickprompt.plm import load_encoder

    folder = Path("my-bert")
    folder.mkdir()
    config = {"model_type": family, "num_hidden_layers": 4, "vocab_size": 9}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_text("x")
    load_encoder(parameters(plm={"source": "my-bert", "sha256": sha256}).plm)


def layers_out_of_range() -> None:
    from clickprompt.plm import load_encoder

    load_encoder(parameters(plm={"keep_layers": 9}).plm)


def hub_without_network() -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    from clickprompt.plm import resolve_source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", fail)
        resolve_source(parameters(plm={"name": "roberta_base"}).plm)


def more_tokens_than_positions() -> None:
    from clickprompt.pipelines.modality_conversion.nodes import _longest_text

    _longest_text(parameters(plm={"max_tokens": 999}).plm)


def long_texts() -> None:
    from clickprompt.plm.source import resolve_source

    with tempfile.TemporaryDirectory() as folder:
        modality.convert_interactions(
            interactions(RATINGS).head(40),
            parameters().data,
            resolve_source(parameters().plm).folder / "tokenizer.json",
            folder,
            max_tokens=8,
            long_text="error",
        )


def no_bf16() -> None:
    from clickprompt.training import machine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "has_bf16", lambda device: False)
        machine.choose_machine(parameters(training={"precision": "bf16", "device": "cpu"}).training)


def no_such_device() -> None:
    from clickprompt.training.machine import choose_machine

    choose_machine(parameters(training={"device": "cuda:7"}).training)


def damaged_checkpoint() -> None:
    from clickprompt.training.files import check_folder, write_folder

    folder = Path("data/06_models/pretrain/0123456789abcdef/checkpoint")
    write_folder(folder, lambda aside: write_weights(aside, "abc"))
    write_weights(folder, "ab")
    check_folder(folder)


def write_weights(folder: Path, text: str) -> None:
    (folder / "model.safetensors").write_text(text)


def full_disk() -> None:
    from clickprompt.training.files import write_folder

    def write(aside: Path) -> None:
        raise OSError(28, "No space left on device")

    write_folder(Path("data/06_models/pretrain/0123456789abcdef/checkpoint"), write)


def diverged() -> None:
    import torch

    watch = divergence_watch("pretrain")
    for step in range(39, 50):
        watch.add(step, torch.tensor(float("nan") if step >= 40 else 1.0))
    watch.check_losses(torch.tensor(float("nan")), epoch=0)


def broken_weights() -> None:
    import torch
    from torch import nn

    from clickprompt.ctr import FeatureEmbedding
    from clickprompt.training.checkpoint import Checkpoints, Progress
    from clickprompt.training.optimizer import LazyAdam

    watch = divergence_watch("backbone")
    table = FeatureEmbedding(field_sizes=(130,), embedding_size=1)
    model = nn.ModuleDict({"ctr": nn.ModuleDict({"embedding": table})})
    optimizer = LazyAdam(model.parameters(), fused=True)
    Checkpoints(STAGE_FOLDER).save(model, optimizer, Progress(epoch=1))
    with torch.no_grad():
        table.weight[117] = torch.inf
    watch.check_weights(model, epoch=1, steps=130)


STAGE_FOLDER = Path("data/06_models/pretrain/0123456789abcdef")


def divergence_watch(name: str) -> Any:
    """Of a stage with 130 steps of 256 rows; the id of a row is its step."""
    import numpy as np

    from clickprompt.training.divergence import DivergenceWatch
    from clickprompt.training.objectives import Batch

    class Steps:
        def batches(self, epoch: int) -> list[np.ndarray]:
            return list(np.arange(130 * 256).reshape(130, 256))

        def prepare(self, rows: np.ndarray, epoch: int, step: int) -> Batch:
            return Batch(x_id_BF=rows[:, None] // 256, label_B=rows)

    return DivergenceWatch(
        name=name,
        objective=Steps(),
        row_numbers=np.arange(130 * 256) - 40 * 256 + 12,
        folder=STAGE_FOLDER,
    )


def ids_outside_of_their_field() -> None:
    import numpy as np

    from clickprompt.ctr import FeatureEmbedding
    from clickprompt.training.inputs import check_ids

    class Input:
        folder = "data/05_model_input"
        ids = np.array([[700]])
        metadata: ClassVar[dict[str, Any]] = {"fields": [{"name": "user id"}]}

    check_ids(Input(), FeatureEmbedding(field_sizes=(611,), embedding_size=1))


def misspelt_space() -> None:
    space = {"backbone": {"backbone.learning_rate_crt": {"low": 1e-3, "high": 1e-2}}}
    check_space(configuration("base", tuning={"space": space})["parameters"], "backbone")


def search(seed: int = 0) -> TunedStudy:
    """A search in the working folder whose training costs nothing."""
    trained = TrainedModel(
        stage="backbone",
        digest="d",
        folder="",
        report={"history": [{"epoch": 1, "valid_auc": 0.7}], "metrics": {"valid_auc": 0.7}},
    )
    return tune(
        name="base_dcnv2_backbone",
        stage="backbone",
        raw=configuration("base", seed=seed)["parameters"],
        prepare=lambda: "d",
        train=lambda values: trained,
        trials=1,
    )


def another_study() -> None:
    search()
    search(seed=1)


def edited_environment() -> None:
    conf, tuned = Path("conf"), search()
    for _ in range(2):
        folder = write_environment(
            tuned, conf=conf, name=tuned.name, source="local", changes={}, command="kedro tune"
        )
        (folder / "parameters.yml").open("a").write("seed: 3\n")


def no_optuna() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        search()


ERRORS: list[Callable[[], Any]] = [
    lambda: parameters(ctr={"nam": "dnn"}, seed=-1),
    lambda: parameters(ctr={"name": "dcnv3"}),
    unknown_environment,
    lambda: load_raw_files("movielens_1m"),
    damaged_embedded_files,
    lambda: interactions("userId;movieId;rating;timestamp\n1;1;5;3\n"),
    lambda: interactions(HEADER + "1,1,5,3\n1,1,4,4\n2,1"),
    lambda: interactions(HEADER + "1,1,x,3\n"),
    lambda: samples(item="movie_ids"),
    lambda: samples(label={"positive_from": 6}),
    lambda: samples(rows=5),
    lambda: language_model(sha256="0" * 64),
    hub_without_network,
    lambda: language_model(weights="pytorch_model.bin"),
    lambda: language_model(family="deberta-v2"),
    layers_out_of_range,
    more_tokens_than_positions,
    long_texts,
    no_bf16,
    no_such_device,
    damaged_checkpoint,
    full_disk,
    diverged,
    broken_weights,
    ids_outside_of_their_field,
    misspelt_space,
    another_study,
    edited_environment,
    no_optuna,
]


def guide_messages() -> list[str]:
    """Text blocks of the section on errors."""
    lines = read(PAGE).splitlines()
    start = lines.index("## Common errors") + 1
    stop = lines.index("## Questions") + 1
    return [b.text for b in blocks(PAGE, "text") if start < b.line < stop]


def fits(message: str, pattern: str) -> bool:
    parts = [re.escape(part) for part in pattern.split("...")]
    return re.fullmatch(".+?".join(parts), message, flags=re.DOTALL) is not None


def raised(cause: Callable[[], Any]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011, what it says is compared below
        cause()
    error = caught.value
    message = error.format_message() if isinstance(error, click.ClickException) else explain(error)
    return message.removeprefix("[Errno 28] ")


def test_as_many_causes_as_messages():
    assert len(guide_messages()) == len(ERRORS)


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_message_of_the_guide_is_raised(number, tmp_path):
    with chdir(tmp_path):
        message = raised(ERRORS[number])
    assert fits(message, guide_messages()[number]), message


def test_patterns_are_strict():
    assert fits("a must be 1, got 2 rows", "a must be ..., got 2 rows")
    assert not fits("a must be 1, got 2 rows", "a must be ..., got 3 rows")
    assert not fits("b: a must be 1", "a must be ...")
