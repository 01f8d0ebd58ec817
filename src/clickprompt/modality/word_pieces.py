"""WordPiece of many words at a time, on arrays.

The tokenizer of BERT looks up every beginning of what is left of a word, about n² / 2 texts for n
characters: ids of 32 digits take it longer than all other texts of a data set. Here all words of
a call walk through a trie of the vocabulary side by side.

Letters: C characters, N nodes of the trie, R runs of letters or digits, S symbols, W words.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

DEAD, INITIAL, CONTINUED = 0, 1, 2  # the first nodes: no token begins so; the two roots
NO_TOKEN, FOREIGN = -1, -2


@dataclass(frozen=True, eq=False)
class WordPieces:
    """The vocabulary of a BERT tokenizer, as far as it is of plain (printable ASCII) characters.

    The longest token that a run begins with is its first one, the longest continuation that the
    rest begins with its next one, and so on (BERT's reference implementation, and
    ``tokenizers.models.WordPiece``). The texts of special tokens have no meaning of their own.

    - ``symbols`` (256,) uint8: of each byte, 0 for what is neither letter nor digit;
    - ``alone`` (256,) int32: token of a punctuation mark, which is always one, ``NO_TOKEN`` for the
      space, letters and digits, ``FOREIGN`` for all others;
    - ``children`` (N * S,) int32: node after a node and a symbol;
    - ``tokens`` (N,) int32: token that ends at a node, or ``FOREIGN``;
    - ``longest_run``: a longer one is the unknown token.
    """

    symbols: np.ndarray
    alone: np.ndarray
    children: np.ndarray
    tokens: np.ndarray
    longest_run: int

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> WordPieces | None:
        """The word pieces of a tokenizer; None if it is not put together as BERT's is."""
        model, normalizer = backend.model, backend.normalizer
        if (
            not isinstance(model, models.WordPiece)
            or not isinstance(normalizer, normalizers.BertNormalizer)
            or not isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
            # other added tokens are found in a text before it is cut into words
            or not all(token.special for token in backend.get_added_tokens_decoder().values())
        ):
            return None
        letters = string.digits + string.ascii_lowercase
        symbols = np.zeros(256, np.uint8)
        symbols[list(letters.encode())] = np.arange(1, 1 + len(letters))
        capitals = list(string.ascii_uppercase.encode())
        if normalizer.lowercase:
            symbols[capitals] = symbols[list(string.ascii_lowercase.encode())]
        else:
            letters += string.ascii_uppercase
            symbols[capitals] = np.arange(1 + len(letters) - len(capitals), 1 + len(letters))
        vocabulary = backend.get_vocab(with_added_tokens=False)
        alone = np.full(256, FOREIGN, np.int32)
        alone[symbols > 0] = alone[ord(" ")] = NO_TOKEN
        for mark in string.punctuation:
            alone[ord(mark)] = vocabulary.get(mark, FOREIGN)
        prefix = model.continuing_subword_prefix
        tries: dict[int, dict[str, int]] = {INITIAL: {}, CONTINUED: {}}
        known = str.maketrans("", "", letters)
        for token, number in vocabulary.items():
            if not token.translate(known):
                tries[INITIAL][token] = number
            elif token.startswith(prefix) and not token[len(prefix) :].translate(known):
                tries[CONTINUED][token[len(prefix) :]] = number
        children, tokens = _trie(tries, symbols, 1 + len(letters))
        return cls(symbols, alone, children, tokens, model.max_input_chars_per_word)

    def tokenise(self, words: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all words in a row (int32), and how many each word has (W,) int64.

        The count is -1, and there is no token, where only the tokenizer itself knows: a
        word has other characters, or a run without tokens, which becomes the unknown one.
        """
        if len(words) == 0:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        after, between = pa.scalar(" ", words.type), pa.scalar("", words.type)
        # a space after each, so that no run goes on in the next word
        spaced = pc.binary_join_element_wise(words, after, between)
        _, offsets, data = spaced.buffers()
        starts = np.frombuffer(offsets, np.int64)[: len(words) + 1]
        text_C = np.frombuffer(data, np.uint8)[: starts[-1]]
        starts = starts[:-1]
        symbol_C = self.symbols[text_C]
        inside = symbol_C > 0
        edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
        edges = np.concatenate([[0], edges]) if inside[0] else edges
        begin_R, end_R = edges[0::2], edges[1::2]
        token_C = self.alone[text_C]  # a token stands at its first character
        at, root = begin_R, INITIAL
        while len(at):
            found, ends = self._longest(symbol_C, at, root)
            token_C[at] = found
            at, root = ends[(found >= 0) & inside[ends]], CONTINUED
        token_C[begin_R[end_R - begin_R > self.longest_run]] = FOREIGN
        is_token = token_C >= 0
        counts = np.add.reduceat(is_token, starts, dtype=np.int64)
        foreign = np.add.reduceat(token_C == FOREIGN, starts, dtype=np.int64) > 0
        if foreign.any():
            is_token &= ~np.repeat(foreign, np.diff(starts, append=len(text_C)))
            counts[foreign] = -1
        return token_C[is_token], counts

    def _longest(
        self, symbol_C: np.ndarray, at: np.ndarray, root: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The longest token below ``root`` from each place ``at`` (n,) on, and where it ends."""
        tokens, ends = np.full(len(at), FOREIGN, np.int32), at.copy()
        walkers, nodes, places = np.arange(len(at)), np.full(len(at), root, np.int64), at
        width = len(self.children) // len(self.tokens)
        while len(walkers):
            nodes = self.children[nodes * width + symbol_C[places]].astype(np.int64)
            alive = np.flatnonzero(nodes)
            walkers, nodes, places = walkers[alive], nodes[alive], places[alive] + 1
            found = self.tokens[nodes]
            ended = np.flatnonzero(found >= 0)
            tokens[walkers[ended]] = found[ended]
            ends[walkers[ended]] = places[ended]
        return tokens, ends


def _trie(
    tries: Mapping[int, Mapping[str, int]], symbols: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Children (N * S,) and tokens (N,) of a trie with one root for each entry of ``tries``.

    Args:
        tries: root -> text -> token.
        symbols: see ``WordPieces``.
        width: S.
    """
    texts = [text for of_root in tries.values() for text in of_root if text]
    numbers = [n for of_root in tries.values() for text, n in of_root.items() if text]
    roots = [root for root, of_root in tries.items() for text in of_root if text]
    token, node = np.array(numbers, np.int32), np.array(roots, np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    longest = int(lengths.max(initial=1))
    characters = np.array(texts, f"S{longest}").view(np.uint8).reshape(-1, longest)
    order = np.argsort(-lengths, kind="stable")  # at each depth the texts that reach it come first
    token, node, lengths = token[order], node[order], lengths[order]
    symbol = symbols[characters[order]].astype(np.int64)
    count = 1 + max(tries)
    edges: list[np.ndarray] = []
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for depth in range(longest):
        reach = int(np.searchsorted(-lengths, -depth))
        edge, child = np.unique(node[:reach] * width + symbol[:reach, depth], return_inverse=True)
        node = count + child.reshape(-1)
        count += len(edge)
        edges.append(edge)
        last = int(np.searchsorted(-lengths, -depth - 1))
        ends.append((node[last:], token[last:reach]))
    children = np.zeros(count * width, np.int32)
    children[np.concatenate(edges)] = np.arange(1 + max(tries), count)
    tokens = np.full(count, FOREIGN, np.int32)
    for nodes, found in ends:
        tokens[nodes] = found
    return children, tokens
