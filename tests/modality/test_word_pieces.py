"""Word pieces of many words at a time, against the tokenizer itself on each word."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from clickprompt.modality.word_pieces import WordPieces

PLAIN = "".join(map(chr, range(32, 127)))
plain_words = st.lists(st.text(PLAIN, max_size=30), max_size=30)


def make_tokenizer(
    tokens: list[str], *, lowercase: bool = True, prefix: str = "##", longest: int = 100
) -> tokenizers.Tokenizer:
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys(["[UNK]", *tokens]))}
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=longest)
    model.continuing_subword_prefix = prefix
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def tokens_of(pieces: WordPieces | None, words: list[str]) -> list[list[int] | None]:
    """Of each word, None where it is left to the tokenizer."""
    assert pieces is not None
    tokens, counts = pieces.tokenise(pa.array(words, pa.large_string()))
    assert len(counts) == len(words)
    assert tokens.dtype == np.int32
    ends = np.cumsum([0, *np.maximum(counts, 0)])
    assert ends[-1] == len(tokens)
    found = [tokens[start:stop].tolist() for start, stop in pairwise(ends)]
    return [None if count < 0 else some for some, count in zip(found, counts, strict=True)]


def ids_of(backend: tokenizers.Tokenizer, words: list[str]) -> list[list[int]]:
    return [entry.ids for entry in backend.encode_batch(words, add_special_tokens=False)]


@given(words=plain_words)
@example(words=[])
@example(words=["", "", " ", "a"])
@example(words=["000338dc6013b1356d41aa5848ed6acc.", " the", "The2nd;film's", "x" * 100])
@settings(max_examples=300, deadline=None)
def test_plain_words_of_a_published_vocabulary(word_piece, words):
    """None is left over: all letters, digits and marks are in it."""
    assert tokens_of(word_piece.word_pieces, words) == ids_of(word_piece.backend, words)


@given(words=st.lists(st.text(max_size=12), max_size=20))
@example(words=["é", "a\tb", "\x7f", "a\x00b", "電", "a\u0301", "[MASK]", "ſ"])
@settings(max_examples=200, deadline=None)
def test_other_words_are_left_to_the_tokenizer(word_piece, words):
    expected: list[list[int] | None] = [*ids_of(word_piece.backend, words)]
    for position, word in enumerate(words):
        if not set(word) <= set(PLAIN):
            expected[position] = None
    assert tokens_of(word_piece.word_pieces, words) == expected


@given(
    tokens=st.lists(
        st.builds(str.__add__, st.sampled_from(["", "@"]), st.text("abA1.@", max_size=4)),
        max_size=30,
    ),
    lowercase=st.booleans(),
    words=st.lists(st.text("abAB1 .-@", max_size=12), max_size=20),
)
@example(tokens=["a", "ab", "@b", "@bb", "@"], lowercase=False, words=["abbb", "bab", "aAb", "@b"])
@settings(max_examples=300, deadline=None)
def test_any_vocabulary(tokens, lowercase, words):
    """Left over is exactly what has an unknown part."""
    tokenizer = make_tokenizer([t for t in tokens if t], lowercase=lowercase, prefix="@")
    ids = ids_of(tokenizer, words)
    expected = [None if 0 in some else some for some in ids]  # 0 is [UNK]
    assert tokens_of(WordPieces.of(tokenizer), words) == expected


def test_a_run_beyond_the_longest_is_left_to_the_tokenizer():
    tokenizer = make_tokenizer(["a", "##a", "."], longest=5)
    words = ["aaaaa", "aaaaaa", "aaaaa.aaaaa", "a.aaaaaa"]
    ids = ids_of(tokenizer, words)
    assert [0 in some for some in ids] == [False, True, False, True]
    assert tokens_of(WordPieces.of(tokenizer), words) == [ids[0], None, ids[2], None]


@pytest.mark.parametrize("changed", ["model", "normalizer", "pre_tokenizer", "added token"])
def test_a_tokenizer_that_is_put_together_in_another_way_has_none(changed):
    tokenizer = make_tokenizer(["a", "##a"])
    tokenizer.add_special_tokens(["<a>"])
    assert WordPieces.of(tokenizer) is not None
    if changed == "model":
        tokenizer.model = models.BPE({"a": 0}, [])
    elif changed == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.BertNormalizer()])
    elif changed == "pre_tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        tokenizer.add_tokens([AddedToken("aa")])
    assert WordPieces.of(tokenizer) is None


def test_no_normalizer_and_no_pre_tokenizer():
    assert WordPieces.of(tokenizers.Tokenizer(models.WordPiece({"a": 0}, unk_token="a"))) is None
