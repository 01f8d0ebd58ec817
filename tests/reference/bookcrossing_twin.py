"""BookCrossing in plain Python, row by row: what the reader must give, slowly."""

from __future__ import annotations

import csv
import html
import io
import re


def rows(raw: bytes) -> list[list[str]]:
    """Rows of a published file after its header."""
    text = raw.decode("cp1252")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";", escapechar="\\")
    return list(reader)[1:]


def isbn(text: str) -> str:
    text = text.strip().upper()
    if re.fullmatch(r"\d{9}[\dX]", text):
        return text
    compact = "".join(c for c in text if c.isascii() and c.isalnum())
    if 7 <= len(compact) <= 10 and re.fullmatch(r"\d+[\dX]", compact):
        whole = "0" * (10 - len(compact)) + compact
        digits = [10 if c == "X" else int(c) for c in whole]
        if sum((10 - i) * d for i, d in enumerate(digits)) % 11 == 0:
            return whole
    return text


def words(text: str) -> str | None:
    return html.unescape(text).strip() or None


def age(text: str) -> str | None:
    return text if text.isdigit() and 5 <= int(text) <= 110 else None


def country(location: str) -> str | None:
    parts = [part.strip() for part in html.unescape(location).split(",")]
    named = [part for part in parts if part not in ("", "n/a")]
    return named[-1] if named else None


def interactions(ratings: bytes, users: bytes, books: bytes) -> list[tuple]:
    """(user, country, age, isbn, title, author, year, publisher, rating) of every rating."""
    people: dict[str, tuple] = {}
    for user, location, years in rows(users):
        people.setdefault(user, (country(location), age(years)))
    works: dict[str, tuple] = {}
    for code, title, author, year, publisher, *_ in rows(books):
        known = (words(title), words(author), None if year == "0" else year, words(publisher))
        works.setdefault(isbn(code), known)
    found, seen = [], set()
    for user, code, rating in rows(ratings):
        row = (user, isbn(code), float(rating))
        if row in seen:
            continue
        seen.add(row)
        where, years = people.get(user, (None, None))
        found.append((user, where, years, row[1], *works.get(row[1], (None,) * 4), row[2]))
    return found
