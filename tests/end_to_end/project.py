"""A whole project in a temporary folder: synthetic ratings, a tiny encoder, quick training."""

from __future__ import annotations

import shutil
import string
import tempfile
from collections.abc import Iterable
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clickprompt.synthetic import ADJECTIVES, GENRES, WORDS, write_synthetic_ratings

REPOSITORY = Path(__file__).resolve().parents[2]

# Environments of this repository; those that a user made (`kedro new-table`, `kedro tune`) are not
# its business.
ENVIRONMENTS = sorted(
    folder.name
    for folder in (REPOSITORY / "conf").iterdir()
    if folder.is_dir()
    and folder.name != "local"
    and not any(
        mark in path.read_text()
        for path in folder.glob("parameters.yml")
        for mark in ("reader: table", "# kedro tune, study ")
    )
)

QUICK = {
    "ctr": {"embedding_size": 8, "hidden_sizes": [16], "cross_layers": 1},
    "plm": {"source": "plm", "sha256": None, "keep_layers": 1},
    "prompts": {"count": 2, "bottleneck": 8},
    "backbone": {"epochs": 2, "batch_size": 64, "learning_rate_ctr": 5e-3},
    "pretrain": {"epochs": 2, "batch_size": 64},
    "finetune": {
        "without_plm": {"epochs": 2, "batch_size": 64, "learning_rate_ctr": 5e-3},
        "with_plm": {"epochs": 2, "batch_size": 64, "learning_rate_plm": 1e-3},
    },
    "training": {"precision": "float32", "device": "cpu", "threads": 1},
}


def make_project(
    folder: Path, *, ratings: int = 1500, tracked: bool = True, **parameters: Any
) -> Path:
    """Write a project that ``kedro run`` finishes in seconds; ``parameters`` replace ``QUICK``.

    ``tracked`` gives it the empty database that its first run would spend seconds on.
    """
    shutil.copytree(
        REPOSITORY / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"), symlinks=True
    )
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    shutil.copy(REPOSITORY / ".telemetry", folder)
    (folder / "src").mkdir()  # Kedro wants it; the package is the installed one
    raw = folder / "data" / "01_raw" / "synthetic"
    write_synthetic_ratings(raw, users=60, movies=120, ratings=ratings)
    write_tiny_encoder(folder / "plm")
    local = folder / "conf" / "local"
    local.mkdir()
    (local / "parameters.yml").write_text(yaml.safe_dump(QUICK | parameters, sort_keys=False))
    (local / "catalog.yml").write_text(
        yaml.safe_dump(
            {
                "raw_files": {
                    "type": "clickprompt.datasets.RawFilesDataset",
                    "path": "data/01_raw/synthetic",
                    "files": {"ratings.csv": None, "movies.csv": None},
                    "published_at": "clickprompt.synthetic",
                }
            }
        )
    )
    if tracked:
        add_database(folder)
    return folder


def add_database(project: Path) -> None:
    """Put MLflow's empty database into a project: its tables take seconds to make."""
    shutil.copy(Path(_database().name) / "mlflow.db", project)


@cache
def _database() -> tempfile.TemporaryDirectory[str]:
    import mlflow

    folder = tempfile.TemporaryDirectory()
    mlflow.MlflowClient(f"sqlite:///{folder.name}/mlflow.db").search_experiments()
    return folder


def write_tiny_encoder(folder: Path) -> None:
    """A random one-layer BERT with a WordPiece vocabulary of the synthetic titles."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [word.lower() for word in (*WORDS, *ADJECTIVES, *GENRES)]
    template = ["user", "movie", "id", "title", "genre", "release", "year", "is", "part", "of", "."]
    letters = [*string.ascii_lowercase, *string.digits]
    vocabulary = [*special, *words, *template, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        unk_token="[UNK]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)


def make_causal_tokenizer(texts: Iterable[str], size: int = 258) -> Any:
    """Byte-level BPE as GPT-2's: nothing around a text, one special token, which ends texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tiny_gpt2(folder: Path) -> None:
    """A random two-layer GPT-2 with a byte-level BPE of words like those of the synthetic data."""
    import torch
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    titles = [f"{one} {two}" for one in ADJECTIVES for two in WORDS]
    texts = [f"user id is {n}. movie title is {title}." for n, title in enumerate(titles)]
    texts += [f"genre is {genre}." for genre in GENRES]
    tokenizer = make_causal_tokenizer(texts, 500)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2Model(
        GPT2Config(
            vocab_size=tokenizer.get_vocab_size(),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=96,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).save_pretrained(folder)


def run(project: Path, *options: str) -> Any:
    """``kedro run`` inside this process: the result has ``exit_code`` and ``output``."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    from clickprompt.cli import run as command

    bootstrap_project(project)
    with chdir(project):
        return CliRunner().invoke(command, options)
