"""The model input: a folder of memory-mapped integer arrays and two JSON files.

``write_model_input`` makes it, ``ModelInput.open`` checks and maps it. Arrays are written to a
folder beside the target, which is renamed at the end: an interrupted write never leaves a half
folder in place of a good one.

Letters: F fields, P pieces, M members of a bag.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clickprompt.files import (
    file_digest,
    recover_folder,
    replace_folder,
    sync,
    value_digest,
)
from clickprompt.modality.arrays import ArrayFile, chunks, read_rows
from clickprompt.modality.checks import ModelInputCheck
from clickprompt.modality.columns import FieldCodes
from clickprompt.modality.samples import SPLITS, SplitName
from clickprompt.modality.tokens import PieceTokens
from clickprompt.modality.views import IdView, TextView
from clickprompt.modality.vocabulary import Vocabulary
from clickprompt.progress import RateProgress

FORMAT = 1


@dataclass(frozen=True)
class ModelInput:
    """What the models read; arrays are memory-mapped, rows are ordered train, valid, test.

    - ``ids`` (rows, F) int32: local ids, 0 = out-of-vocabulary of the field; for a bag field the
      number of the combination in ``bags``;
    - ``pieces`` (rows, F) int32: numbers of the text pieces;
    - ``labels`` (rows,) int8; ``row_numbers`` (rows,) int64: ``row`` of the interactions table;
    - ``user_train_rows``, ``item_train_rows`` (rows,) int32: train rows of the row's user (item),
      0 where it is not in train, -1 where the data has no such column;
    - ``piece_tokens`` (all tokens,) int32, ``piece_offsets`` (P + 1,) int64;
    - ``bags``: field position -> (combinations, M) int32 local member ids, padded with -1;
    - ``active_tokens`` (active,) int32: sorted tokens of train rows, special ones excluded;
    - ``metadata``: fields, split_rows, special_tokens, tokenizer, max_tokens, truncated, ...;
    - ``digest``: sha256 over all arrays, vocabularies and metadata.
    """

    folder: Path
    ids: np.ndarray
    pieces: np.ndarray
    labels: np.ndarray
    row_numbers: np.ndarray
    user_train_rows: np.ndarray
    item_train_rows: np.ndarray
    piece_tokens: np.ndarray
    piece_offsets: np.ndarray
    active_tokens: np.ndarray
    bags: dict[int, np.ndarray]
    vocabularies: tuple[Vocabulary, ...]
    metadata: dict[str, Any]
    digest: str

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> ModelInput:
        """Map the arrays of a folder.

        Args:
            folder: what ``write_model_input`` wrote.
            verify: compare every file with its sha256 (0.1 s for a million rows of 8 fields).

        Raises:
            FileNotFoundError: there is no model input.
            ValueError: a file is missing, truncated or changed; names the file.
        """
        folder = Path(folder)
        recover_folder(folder)
        if not (folder / "metadata.json").is_file():
            raise FileNotFoundError(
                f"{folder} must hold a model input, got no metadata.json there: "
                f"run the pipeline modality_conversion"
            )
        try:
            metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            stored_digest, files = metadata.pop("digest"), metadata["files"]
        except (ValueError, KeyError, AttributeError) as error:
            raise _damaged(folder / "metadata.json", str(error)) from None
        if stored_digest != value_digest(metadata):
            raise _damaged(folder / "metadata.json", "its digest does not fit its content")
        if metadata["format"] != FORMAT:
            raise ValueError(
                f"{folder} must be a model input of format {FORMAT}, got {metadata['format']}: "
                f"run the pipeline modality_conversion again"
            )
        arrays = {}
        for name, expected in files.items():
            path = folder / name
            _check_file(path, expected, verify)
            if path.suffix == ".npy":
                arrays[path.stem] = _map_array(path, expected)
        stored = json.loads((folder / "vocabularies.json").read_text(encoding="utf-8"))
        bags = {field: arrays.pop(f"bag_{field}") for field in metadata["bag_fields"]}
        return cls(
            folder=folder,
            bags=bags,
            vocabularies=tuple(Vocabulary.from_dict(entry) for entry in stored),
            metadata=metadata,
            digest=stored_digest,
            **arrays,
        )

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Embedding rows of every field, row 0 included."""
        return tuple(self.metadata["field_sizes"])

    @property
    def special_tokens(self) -> dict[str, int | None]:
        """Token ids by the names ``cls``, ``sep``, ``mask`` and ``pad``.

        A text of a causal model has no ``sep`` and no ``mask``, one of an encoder-decoder no
        ``cls`` and no ``mask``: they are None.
        """
        return dict(self.metadata["special_tokens"])

    @property
    def tokens_around(self) -> int:
        """How many special tokens stand around a text."""
        special = self.special_tokens
        return (special["cls"] is not None) + (special["sep"] is not None)

    @property
    def max_tokens(self) -> int:
        """Longest text of a row, special tokens included."""
        return int(self.metadata["max_tokens"])

    def rows(self, split: SplitName) -> slice:
        """The rows of a split."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        ends = np.cumsum([0, *self.metadata["split_rows"]])
        position = SPLITS.index(split)
        return slice(int(ends[position]), int(ends[position + 1]))

    def text_lengths(self) -> np.ndarray:
        """Tokens of every row, special ones included, after truncation; (rows,) int32."""
        piece_lengths = np.diff(self.piece_offsets).astype(np.int32)
        lengths = np.empty(len(self.pieces), dtype=np.int32)
        around = self.tokens_around
        for rows in chunks(len(lengths)):
            counts = piece_lengths[read_rows(self.pieces, rows)].sum(axis=1, dtype=np.int32)
            lengths[rows] = np.minimum(counts + around, self.max_tokens)
        return lengths


def write_model_input(
    folder: str | Path,
    field_codes: FieldCodes,
    id_view: IdView,
    text_view: TextView,
    piece_tokens: PieceTokens,
) -> ModelInput:
    """Look every row up in both views and write what is found; an older folder is replaced.

    Returns:
        The model input, opened.

    Raises:
        OSError: it could not be written, e.g. because the disk is full; the old folder is
            unchanged and nothing half-written is left.
    """
    tokenizer = piece_tokens.tokenizer
    arrays = {
        "piece_tokens": piece_tokens.tokens,
        "piece_offsets": piece_tokens.offsets,
        "active_tokens": piece_tokens.active_tokens,
        **{f"bag_{field}": members for field, members in id_view.bags.items()},
    }
    fields = [vocabulary.field.model_dump() for vocabulary in id_view.vocabularies]
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "fields": fields,
        "field_sizes": list(id_view.field_sizes),
        "bag_fields": list(id_view.bags),
        "split_rows": list(field_codes.split_rows),
        "special_tokens": {
            "cls": tokenizer.cls_id,
            "sep": tokenizer.sep_id,
            "mask": tokenizer.mask_id,
            "pad": tokenizer.pad_id,
        },
        "special_token_ids": list(tokenizer.special_ids),
        "tokenizer": {"name": tokenizer.name, "sha256": tokenizer.digest},
        "vocabulary_size": tokenizer.vocabulary_size,
        "max_tokens": piece_tokens.max_tokens,
        "truncated": piece_tokens.truncated,
        "pieces": len(text_view.pieces),
    }
    vocabularies = [vocabulary.as_dict() for vocabulary in id_view.vocabularies]

    def write(aside: Path) -> None:
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)
        _write_rows(aside, field_codes, id_view, text_view)
        text = json.dumps(vocabularies, ensure_ascii=False)
        (aside / "vocabularies.json").write_text(text, encoding="utf-8")
        _write_metadata(aside, metadata)

    replace_folder(Path(folder), write)
    return ModelInput.open(folder, verify=False)


def _write_rows(
    folder: Path, field_codes: FieldCodes, id_view: IdView, text_view: TextView
) -> None:
    """What every row has of its own, a piece at a time."""
    rows, fields = len(field_codes.codes), len(id_view.tables)
    views: dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
        "ids": ((rows, fields), id_view.ids),
        "pieces": ((rows, fields), text_view.piece_ids),
        "user_train_rows": ((rows,), id_view.user_train_rows),
        "item_train_rows": ((rows,), id_view.item_train_rows),
    }
    # ids of a bag field are numbers of combinations
    sizes = [
        len(id_view.bags[field]) if field in id_view.bags else size
        for field, size in enumerate(id_view.field_sizes)
    ]
    names = [vocabulary.field.name for vocabulary in id_view.vocabularies]
    check = ModelInputCheck(sizes, len(text_view.pieces), fields=names)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(ArrayFile(folder / f"{name}.npy", shape, np.int32))
            for name, (shape, _) in views.items()
        }

        def look_up(name: str, part: slice, codes: np.ndarray) -> np.ndarray:
            values = views[name][1](codes)
            files[name].write(part.start, values)
            return values

        pool = stack.enter_context(ThreadPoolExecutor(len(views)))
        bar = stack.enter_context(RateProgress("writing the model input", total=rows))
        copied = {"labels": field_codes.labels, "row_numbers": field_codes.row_numbers}
        for name, array in copied.items():
            copy = stack.enter_context(ArrayFile(folder / f"{name}.npy", (rows,), array.dtype))
            for part in chunks(rows):
                copy.write(part.start, read_rows(array, part))
        for part, codes in field_codes.chunks():
            jobs = {name: pool.submit(look_up, name, part, codes) for name in views}
            found = {name: job.result() for name, job in jobs.items()}
            labels, row_numbers = (read_rows(a, part) for a in copied.values())
            check.check(found["ids"], found["pieces"], labels, row_numbers)
            bar.advance(len(codes))
        check.finish(rows)


def _write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Describe the files that are there: shapes, sizes and digests, and one digest of all."""
    files: dict[str, dict[str, Any]] = {}
    paths = sorted(folder.iterdir())
    with ThreadPoolExecutor() as pool:
        # the disk is idle otherwise; what is synced already costs ``replace_folder`` nothing
        synced = pool.submit(_sync_all, paths)
        digests = list(pool.map(file_digest, paths))
        synced.result()
    for path, digest in zip(paths, digests, strict=True):
        entry: dict[str, Any] = {}
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode=None if path.stat().st_size < 1 << 16 else "r")
            entry = {"shape": list(array.shape), "dtype": str(array.dtype)}
        files[path.name] = {**entry, "bytes": path.stat().st_size, "sha256": digest}
    whole = {**metadata, "files": files}
    whole["digest"] = value_digest(whole)
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (folder / "metadata.json").write_text(text, encoding="utf-8")


def _sync_all(paths: Sequence[Path]) -> None:
    for path in paths:
        sync(path)


def _check_file(path: Path, expected: Mapping[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise _damaged(path, "it is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise _damaged(path, f"it must have {expected['bytes']} bytes, got {size}")
    if verify and (found := file_digest(path)) != expected["sha256"]:
        raise _damaged(path, f"its sha256 must be {expected['sha256']}, got {found}")


def _map_array(path: Path, expected: Mapping[str, Any]) -> np.ndarray:
    empty = 0 in expected["shape"]  # an empty file cannot be mapped
    try:
        array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _damaged(path, str(error)) from None
    if list(array.shape) != expected["shape"] or str(array.dtype) != expected["dtype"]:
        raise _damaged(path, f"it must hold {expected['dtype']} {expected['shape']}")
    return array


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {why}; delete the folder and run the pipeline modality_conversion"
    )
