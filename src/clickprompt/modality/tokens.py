"""Pieces -> tokens: every word of a piece is tokenised once, for the whole data set.

Tokenisers split on white space first, so the tokens of a sentence are those of its pieces in a
row (proved by property tests and checked on a sample of rows at every run).

Letters: B rows, F fields, P pieces, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers

from clickprompt.modality.arrays import read_rows
from clickprompt.modality.columns import FieldCodes
from clickprompt.modality.samples import SPLITS
from clickprompt.modality.views import Lookup, TextView
from clickprompt.modality.word_pieces import WordPieces
from clickprompt.progress import RateProgress

CHECKED_ROWS = 64
WORDS_PER_CALL = 1 << 15  # the tokenizer makes large objects of them
WORDS_PER_TEXT = 64


@dataclass(frozen=True)
class PieceTokenizer:
    """A fast tokenizer without truncation, padding or special tokens inside the text.

    ``cls_id`` and ``sep_id`` are what the tokenizer itself puts before and after a text (``<s>``
    and ``</s>`` for RoBERTa). ``special_ids`` are all its special tokens, the unknown one included.

    Of a causal model ``cls_id`` is the token that begins a text; nothing stands behind it
    (``sep_id`` is None) and nothing is masked (``mask_id`` is None). Of an encoder-decoder (T5)
    ``sep_id`` is the token that ends a text; nothing stands before it (``cls_id`` is None) and
    nothing is masked.
    """

    backend: tokenizers.Tokenizer
    name: str
    digest: str
    cls_id: int | None
    sep_id: int | None
    mask_id: int | None
    pad_id: int
    special_ids: tuple[int, ...]

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        name: str | None = None,
        *,
        causal: bool = False,
        encoder_decoder: bool = False,
    ) -> PieceTokenizer:
        """Adapt a fast tokenizer.

        Args:
            tokenizer: a fast tokenizer of transformers, a ``tokenizers.Tokenizer``, or the path
                of a ``tokenizer.json``.
            name: for the metadata; by default the tokenizer's own, of a folder the last two parts.
            causal: whether it is for a causal model. A text then begins with the token that the
                tokenizer itself puts there, else with its token for the begin or the end of a
                text, which also pads where there is no padding token: padding is never seen.
            encoder_decoder: whether it is for an encoder-decoder as T5, which ends a text with one
                token and begins it with none.

        Raises:
            ValueError: it is no fast tokenizer, or has no mask or padding token, or does not put
                one token before and one after a text (of an encoder-decoder, one after it); for a
                causal model: it has neither a begin nor an end token.
        """
        if isinstance(tokenizer, PieceTokenizer):
            return tokenizer
        own = isinstance(tokenizer, str | Path)
        if own:
            name = name or _short_name(str(Path(tokenizer).parent))
            tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, tokenizers.Tokenizer):
            raise ValueError(
                f"the tokenizer must be a fast one (with a tokenizer.json), got "
                f"{type(tokenizer).__name__}"
            )
        own_name = _short_name(str(getattr(tokenizer, "name_or_path", "")))
        name = name or own_name or type(tokenizer).__name__
        text = _plain_json(backend)
        if own:
            backend.no_truncation()
            backend.no_padding()
        else:  # a copy: the caller's stays as it is
            backend = tokenizers.Tokenizer.from_str(text)
        around = backend.encode("").ids
        cls_id: int | None = None
        sep_id: int | None = None
        mask_id: int | None = None
        if encoder_decoder:
            if len(around) != 1:
                raise ValueError(
                    f"tokenizer {name} must put one token after a text and none before it, got "
                    f"{len(around)} tokens for an empty text"
                )
            (sep_id,) = around
            pad_id = _special_id(tokenizer, backend, name, "pad", ("<pad>",))
        elif causal:
            cls_id = around[0] if around else _begin_id(tokenizer, backend, name)
            own_pad = _found_id(tokenizer, backend, "pad", ("<pad>",))
            pad_id = cls_id if own_pad is None else own_pad
        else:
            if len(around) != 2:
                raise ValueError(
                    f"tokenizer {name} must put one token before and one after a text, got "
                    f"{len(around)} tokens for an empty text"
                )
            cls_id, sep_id = around
            mask_id = _special_id(tokenizer, backend, name, "mask", ("[MASK]", "<mask>"))
            pad_id = _special_id(tokenizer, backend, name, "pad", ("[PAD]", "<pad>"))
        special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        named = {i for i in (cls_id, sep_id, mask_id, pad_id) if i is not None}
        # "[MASK]" in a movie's title is text, not a mask
        backend.encode_special_tokens = True
        return cls(
            backend,
            name,
            hashlib.sha256(text.encode()).hexdigest(),
            cls_id,
            sep_id,
            mask_id,
            pad_id,
            tuple(sorted(special | named)),
        )

    @property
    def definition(self) -> str:
        """What ``restore`` needs: the JSON text whose sha256 is ``digest``."""
        return _plain_json(self.backend)

    @classmethod
    def restore(
        cls, definition: str, name: str, special: Mapping[str, int | None], special_ids: list[int]
    ) -> PieceTokenizer:
        """The tokenizer of a ``definition``.

        Args:
            definition: of the tokenizer.
            name: of the tokenizer.
            special: token ids by the names ``cls``, ``sep``, ``mask`` and ``pad``.
            special_ids: all its special tokens.
        """
        backend = tokenizers.Tokenizer.from_str(definition)
        backend.encode_special_tokens = True
        assert special["pad"] is not None
        return cls(
            backend,
            name,
            hashlib.sha256(definition.encode()).hexdigest(),
            special["cls"],
            special["sep"],
            special["mask"],
            special["pad"],
            tuple(special_ids),
        )

    @property
    def around(self) -> int:
        """How many special tokens stand around a text."""
        return (self.cls_id is not None) + (self.sep_id is not None)

    @property
    def vocabulary_size(self) -> int:
        """V, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def word_pieces(self) -> WordPieces | None:
        """Its vocabulary for many words at a time; None where it is no tokenizer as BERT's is."""
        return WordPieces.of(self.backend)

    @property
    def separator_id(self) -> int:
        """The token after a text; where there is none, the one before it."""
        found = self.cls_id if self.sep_id is None else self.sep_id
        assert found is not None
        return found

    def separator(self) -> tuple[str | None, list[str]]:
        """Text of the separator, if it is neutral to its neighbours; all special texts."""
        added = self.backend.get_added_tokens_decoder()
        token = added.get(self.separator_id)
        neutral = (
            token is not None
            and token.special
            and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        )
        texts = [entry.content for entry in added.values()]
        return (token.content if token is not None and neutral else None), texts

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of the texts, without special tokens."""
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


@dataclass(frozen=True)
class PieceTokens:
    """The tokens of all pieces.

    - ``tokens`` (all tokens,) int32; piece p has ``tokens[offsets[p]:offsets[p + 1]]``;
    - ``offsets`` (P + 1,) int64;
    - ``active_tokens`` (active,) int32: sorted tokens of the pieces of train rows, without special
      ones;
    - ``truncated``: split -> rows that lose tokens, ``max_tokens`` their limit.
    """

    tokenizer: PieceTokenizer
    tokens: np.ndarray
    offsets: np.ndarray
    active_tokens: np.ndarray
    max_tokens: int
    truncated: dict[str, int]


def tokenise_pieces(
    text_view: TextView,
    field_codes: FieldCodes,
    tokenizer: Any,
    *,
    max_tokens: int,
    long_text: Literal["cut", "error"] = "cut",
) -> PieceTokens:
    """Tokenise the pieces in one batch call.

    Args:
        text_view: the pieces.
        field_codes: the rows that are made of them.
        tokenizer: see ``PieceTokenizer.of``.
        max_tokens: longest text of a row, special tokens included; at most the position limit.
        long_text: whether a longer row loses tokens or is an error.

    Raises:
        ValueError: the tokenizer cannot be used, or its tokens of a sentence are not those of the
            sentence's pieces, or a text is too long and ``long_text`` is ``error``.
    """
    if max_tokens < 3:
        raise ValueError(f"max_tokens must be at least 3, got {max_tokens}")
    fast = PieceTokenizer.of(tokenizer)
    tokens, offsets = token_table(text_view.pieces, fast)
    _check_sentences(text_view, field_codes, fast, tokens, offsets)
    piece_lengths = np.diff(offsets).astype(np.int32)
    truncated = _truncated(
        text_view, field_codes, piece_lengths, max_tokens, long_text, around=fast.around
    )
    active = np.unique(tokens[np.repeat(text_view.in_train, piece_lengths)])
    active = np.setdiff1d(active, fast.special_ids).astype(np.int32)
    return PieceTokens(fast, tokens, offsets, active, max_tokens, truncated)


def token_table(pieces: Sequence[str], fast: PieceTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all pieces in a row, and where each piece begins (P + 1,).

    A piece is made of words as a sentence is made of pieces, so each different word is tokenised
    once.
    """
    words, ends = _words(pieces)
    tokens, counts, place = _tokenised(words.dictionary, fast)
    word = place[words.indices.to_numpy()]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    lengths = counts[word]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    # token t of word w of the text stands at offsets[w] + t
    at = np.arange(starts[-1]) + np.repeat(offsets[word] - starts[:-1], lengths)
    return tokens[at], starts[ends]


def _words(pieces: Sequence[str]) -> tuple[pa.DictionaryArray, np.ndarray]:
    """All pieces cut before their spaces, each word with its space, and their ends (P + 1,).

    Pieces with odd spaces stay whole. In place of what would come before a space at the
    beginning stands the empty word.
    """
    cut = "\0"
    texts = pa.array(pieces, pa.large_string())
    odd = pc.match_substring_regex(texts, r"\x00|  | $")
    parts = pc.replace_substring(pc.if_else(odd, "", texts), " ", f"{cut} ")
    parts = pc.split_pattern(parts, cut)
    ends = parts.offsets.to_numpy()
    words = parts.flatten()
    if pc.any(odd).as_py():
        whole = np.zeros(len(words), dtype=bool)
        whole[ends[:-1][odd.to_numpy(zero_copy_only=False)]] = True
        words = pc.replace_with_mask(words, pa.array(whole), texts.filter(odd))
    return words.dictionary_encode(), ends


def _tokenised(
    words: pa.LargeStringArray, fast: PieceTokenizer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of all different words.

    Returns:
        The tokens in a row, in an order of the words of its own; how many each word has (words,)
        in that order; and the place (words,) of each word in it.
    """
    tokens, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    order = [np.zeros(0, np.int64)]
    rest = np.flatnonzero(pc.not_equal(words, "").to_numpy(zero_copy_only=False))
    with RateProgress("tokenising words", total=len(rest)) as bar:

        def add(found: np.ndarray, of_each: np.ndarray, at: np.ndarray) -> None:
            tokens.append(found)
            counts.append(of_each)
            order.append(at)
            bar.advance(len(at))

        if fast.word_pieces is not None:
            left = [np.zeros(0, np.int64)]
            for at in _parts(rest):
                found, of_each = fast.word_pieces.tokenise(words.take(pa.array(at)))
                known = of_each >= 0
                add(found, of_each[known], at[known])
                left.append(at[~known])
            rest = np.concatenate(left)
        for at in _parts(rest):
            some = words.take(pa.array(at)).to_pylist()
            runs = _tokenise_together(some, fast) or [_tokenise_apart(some, fast)]
            found, of_each = (np.concatenate(part) for part in zip(*runs, strict=True))
            add(found, of_each, at)
    done = np.concatenate(order)
    place = np.full(len(words), len(done))  # the empty word comes last
    place[done] = np.arange(len(done))
    return np.concatenate(tokens), np.concatenate([*counts, [0]]), place


def _parts(positions: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(positions), WORDS_PER_CALL):
        yield positions[start : start + WORDS_PER_CALL]


def _tokenise_apart(words: Sequence[str], fast: PieceTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all words in a row, and how many each has."""
    ids = fast.token_ids(list(words))
    counts = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    tokens = chain.from_iterable(ids)
    return np.fromiter(tokens, dtype=np.int32, count=int(counts.sum())), counts


def _tokenise_together(
    words: Sequence[str], fast: PieceTokenizer
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """The same of runs of words, each run as one text with a special token after each word.

    A third quicker: the tokenizer makes one large object for a text. None where the tokenizer's
    separator is not neutral, or a word holds the text of a special token.
    """
    separator, special = fast.separator()
    if separator is None or any(text in word for text in special for word in words):
        return None
    fast.backend.encode_special_tokens = False
    try:
        texts = [
            separator.join(words[at : at + WORDS_PER_TEXT]) + separator
            for at in range(0, len(words), WORDS_PER_TEXT)
        ]
        encoded = fast.backend.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        fast.backend.encode_special_tokens = True
    runs = []
    for encoding in encoded:
        ids = np.array(encoding.ids, dtype=np.int32)
        ends = np.flatnonzero(ids == fast.separator_id)
        runs.append((np.delete(ids, ends), np.diff(ends, prepend=-1) - 1))
    assert sum(len(counts) for _, counts in runs) == len(words)
    return runs


def kept_lengths(lengths_BF: np.ndarray, budget: int) -> np.ndarray:
    """Shorten rows to ``budget`` tokens, always one token off the currently longest piece.

    Among equally long pieces the last one loses first. Water filling: all pieces keep at most a
    level t, and the first pieces that reach it keep t + 1, until the budget is used up.

    Args:
        lengths_BF: tokens of each piece; every row has at least ``budget`` tokens.
        budget: tokens to keep in each row.

    Returns:
        (B, F) tokens to keep of each piece; each row's sum is ``budget``.
    """
    low = np.zeros(len(lengths_BF), dtype=np.int64)
    high = lengths_BF.max(axis=1).astype(np.int64)
    while (low < high).any():  # the highest level whose sum is within the budget
        middle = (low + high + 1) // 2
        fits = np.minimum(lengths_BF, middle[:, None]).sum(axis=1) <= budget
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    kept_BF = np.minimum(lengths_BF, low[:, None])
    spare_B = budget - kept_BF.sum(axis=1)
    reach_BF = lengths_BF > low[:, None]
    return kept_BF + (reach_BF & (np.cumsum(reach_BF, axis=1) <= spare_B[:, None]))


def _truncated(
    text_view: TextView,
    field_codes: FieldCodes,
    piece_lengths: np.ndarray,
    max_tokens: int,
    long_text: str,
    *,
    around: int,
) -> dict[str, int]:
    """Rows of each split that are longer than ``max_tokens``."""
    tables = [piece_lengths[table] for table in text_view.tables]
    if around + sum(int(table.max(initial=0)) for table in tables) <= max_tokens:
        return dict.fromkeys(SPLITS, 0)  # not even a row of all longest pieces is too long
    lengths = Lookup(tables)
    ends = np.cumsum(field_codes.split_rows)
    over = np.zeros(3, dtype=np.int64)
    longest, length = 0, 0
    for rows, codes in field_codes.chunks():
        counts = around + lengths(codes).sum(axis=1, dtype=np.int32)
        if counts.max() > length:
            longest, length = rows.start + int(counts.argmax()), int(counts.max())
        long = rows.start + np.flatnonzero(counts > max_tokens)
        over += np.bincount(np.searchsorted(ends, long, side="right"), minlength=3)
    if long_text == "error" and over.any():
        text = text_view.texts(read_rows(field_codes.codes, slice(longest, longest + 1)))[0]
        raise ValueError(
            f"texts must have at most {max_tokens} tokens, got {int(over.sum())} longer ones; the "
            f"longest has {length}: {text[:200]!r}; plm.long_text: cut shortens them"
        )
    return {name: int(count) for name, count in zip(SPLITS, over, strict=True)}


def _check_sentences(
    text_view: TextView,
    field_codes: FieldCodes,
    fast: PieceTokenizer,
    tokens: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Compare pieces with whole sentences on evenly spaced rows."""
    rows = np.unique(np.linspace(0, len(field_codes.codes) - 1, CHECKED_ROWS).astype(int))
    codes = np.concatenate([read_rows(field_codes.codes, slice(row, row + 1)) for row in rows])
    texts = text_view.texts(codes)
    for pieces, text, whole in zip(
        text_view.piece_ids(codes), texts, fast.token_ids(texts), strict=True
    ):
        parts = [tokens[offsets[piece] : offsets[piece + 1]] for piece in pieces]
        if np.concatenate(parts).tolist() != whole:
            raise ValueError(
                f"tokenizer {fast.name} must split texts on white space, got other tokens for the "
                f"sentence {text!r} than for its pieces"
            )


def _short_name(name: str) -> str:
    """A hub name as it is; of a folder's path what does not depend on the machine."""
    return "/".join(Path(name).parts[-2:]) if Path(name).is_dir() else name


def _plain_json(backend: tokenizers.Tokenizer) -> str:
    """The tokenizer's definition without truncation and padding."""
    definition = json.loads(backend.to_str())
    definition["truncation"] = definition["padding"] = None
    return json.dumps(definition, ensure_ascii=False, sort_keys=False)


def _special_id(
    tokenizer: Any, backend: tokenizers.Tokenizer, name: str, kind: str, texts: tuple[str, ...]
) -> int:
    found = _found_id(tokenizer, backend, kind, texts)
    if found is None:
        raise ValueError(f"tokenizer {name} must have a {kind} token, got none")
    return found


def _begin_id(tokenizer: Any, backend: tokenizers.Tokenizer, name: str) -> int:
    """The token that begins a text of a causal model: its own, or the one that ends texts."""
    for kind, texts in (("bos", ("<s>",)), ("eos", ("<|endoftext|>", "</s>"))):
        found = _found_id(tokenizer, backend, kind, texts)
        if found is not None:
            return found
    raise ValueError(
        f"tokenizer {name} must have a bos or an eos token for a causal model, got neither"
    )


def _found_id(
    tokenizer: Any, backend: tokenizers.Tokenizer, kind: str, texts: tuple[str, ...]
) -> int | None:
    found = getattr(tokenizer, f"{kind}_token_id", None)
    for text in texts:
        found = backend.token_to_id(text) if found is None else found
    return None if found is None else int(found)
