"""Slow twins of the modality conversion: one row, one token at a time."""

from __future__ import annotations

import re


def cut_one_by_one(lengths: list[int], budget: int) -> list[int]:
    """Take one token off the longest piece, the last one among equals, until it fits."""
    kept = list(lengths)
    while sum(kept) > budget:
        longest = max(position for position in range(len(kept)) if kept[position] == max(kept))
        kept[longest] -= 1
    return kept


def row_tokens(piece_tokens: list[list[int]], cls: int, sep: int, max_tokens: int) -> list[int]:
    """The tokens of one row from those of its pieces."""
    kept = cut_one_by_one([len(tokens) for tokens in piece_tokens], max_tokens - 2)
    text = [token for tokens, n in zip(piece_tokens, kept, strict=True) for token in tokens[:n]]
    return [cls, *text, sep]


def split_by_time(rows: list[dict], cuts: tuple[int, int]) -> dict[int, int]:
    """``row`` -> split of rows {row, timestamp, user_id, movie_id}, by sorting everything."""
    ordered = sorted(rows, key=lambda r: (r["timestamp"], r["user_id"], r["movie_id"], r["row"]))
    return {
        r["row"]: 0 if position < cuts[0] else 1 if position < cuts[1] else 2
        for position, r in enumerate(ordered)
    }


def title_and_year(title: str) -> tuple[str, str | None]:
    """Title without the year at its end, and the year; only for plain "Title (1995)"."""
    title = title.strip()
    if re.fullmatch(r"\(\d{4}\)", title[-6:]):
        return title[:-6].strip(), title[-5:-1]
    return title, None


def core(rows: list[tuple[str | None, str | None]], min_user: int, min_item: int) -> list[int]:
    """Positions of the (user, item) rows of the k-core: one row is taken out at a time."""
    kept = list(range(len(rows)))

    def lacks(position: int) -> bool:
        for part, minimum in ((0, min_user), (1, min_item)):
            value = rows[position][part]
            same = [p for p in kept if value is not None and rows[p][part] == value]
            if minimum > 1 and len(same) < minimum:
                return True
        return False

    while (bad := next((position for position in kept if lacks(position)), None)) is not None:
        kept.remove(bad)
    return kept
