"""Genres of a Goodreads book: from the genre file, or from its popular shelves.

The genre file has ten groups of genres, made by its publishers from the names of shelves, with a
number for each. Without it, the shelves themselves are the genres, but for those that say something
about a reader or a copy rather than the book ("to-read", "owned", "kindle", "read-in-2015").
Either way the genres of a book are ordered by their numbers, the largest first, and joined by "|".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clickprompt.readers.formats.records import finite_number, joined_surrogates

SEPARATOR = "|"
MOST_SHELVES = 5  # the most popular ones that are genres

# a shelf with one of these words, or with a word of digits only, is no genre
NO_GENRE_WORDS = frozenset(
    word
    for words in (
        # what a reader did, does or will do with the book
        "abandoned bought buy currently did dnf done finish finished gave had have later maybe",
        "need next not paused purchased re read reading reads reread review reviewed reviews",
        "skimmed someday started stopped tbr unfinished unread want wish wishlist",
        # what a reader thinks of it
        "best fav fave faves favorite favorites favourite favourites favs liked loved rated recs",
        "recommendation recommendations recommended star stars top",
        # where the copy is from, and what it is
        "arc arcs audible audio audiobook audiobooks borrowed calibre copy donated ebook ebooks",
        "epub free freebie freebies giveaway giveaways given hardback hardcover hardcovers home i",
        "kindle lent library loaned me mine my netgalley nook overdrive own owned owns paperback",
        "paperbacks pdf physical scribd shelfari signed",
        # how readers order shelves
        "bookclub bookshelf box challenge club default e goodreads list lists misc pile series",
        "shelf shelved shelves stack tbd to unsorted",
    )
    for word in words.split()
)
# a shelf of this name only is no genre, though "comic-books" and "english-literature" are
NO_GENRE_NAMES = frozenset(("all", "all-books", "book", "books", "english", "general", "other"))


def published_genres(genres: Any) -> str | None:
    """Genres of one record of the genre file, joined; None where it has none.

    Raises:
        ValueError: ``genres`` is no mapping of names.
    """
    if genres is None:
        return None
    if not isinstance(genres, dict):
        raise ValueError(f"genres must be an object, got {type(genres).__name__}")
    return _joined(genres.items())


def genres_of_shelves(shelves: Any) -> str | None:
    """The ``MOST_SHELVES`` most popular shelves that are genres, joined; None where none is.

    Args:
        shelves: ``popular_shelves`` of a book, a list of ``{"count": "12", "name": "poetry"}``.

    Raises:
        ValueError: ``shelves`` is no such list.
    """
    if shelves is None or shelves == "":
        return None
    if not isinstance(shelves, list) or not all(isinstance(shelf, dict) for shelf in shelves):
        raise ValueError(f"popular_shelves must be a list of objects, got {type(shelves).__name__}")
    named = ((shelf.get("name"), shelf.get("count")) for shelf in shelves)
    return _joined(((n, c) for n, c in named if isinstance(n, str) and is_genre(n)), MOST_SHELVES)


def is_genre(shelf: str) -> bool:
    """Whether the name of a shelf says something about the book."""
    if shelf in NO_GENRE_NAMES:
        return False
    words = shelf.lower().replace("_", "-").split("-")
    return not any(word in NO_GENRE_WORDS or word.isdigit() for word in words)


def _joined(counted: Iterable[tuple[str, Any]], most: int | None = None) -> str | None:
    """Names by falling number, equal ones in published order."""
    ordered = sorted(counted, key=lambda pair: -(finite_number(pair[1]) or 0.0))
    names = (
        joined_surrogates(" ".join(name.replace(SEPARATOR, " ").split())) for name, _ in ordered
    )
    return SEPARATOR.join([name for name in names if name][:most]) or None
