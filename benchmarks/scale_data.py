"""An interactions table of any size with the 15 fields of Goodreads, and the same rows as CSV.

Every value is a hash of its row's or its book's number, so that a part of the table can be
written without the rest: the same seed and number of rows give the same table, whatever the size
of the parts. Rows are in random order (the published file is ordered by user), with users about
rows / 50, books about rows / 100, and popular books, active users and productive authors more
often than others. A book has one value in each field, missing where Goodreads has gaps; a user may
have rated a book twice.

    python -m benchmarks.scale_data ROWS TARGET [--csv] [--seed 0]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ROWS_PER_PART = 1 << 18
ROWS_PER_USER, ROWS_PER_BOOK = 50, 100
SHARES_OF_STARS = (0.03, 0.07, 0.22, 0.36, 0.32)  # 1 to 5 stars
FIRST_SECOND, LAST_SECOND = 1_167_609_600, 1_509_494_400  # 2007-01-01 and 2017-11-01, UTC
LARGEST_BOOK_ID = 36_000_007

# column -> human name, in the order of the text view
FIELDS = {
    "user_id": "user id",
    "book_id": "book id",
    "title": "book title",
    "genres": "book genres",
    "average_rating": "average rating",
    "review_count": "number of book reviews",
    "author_id": "author id",
    "author_name": "author name",
    "page_count": "number of pages",
    "is_ebook": "ebook flag",
    "format": "format",
    "publisher": "publisher",
    "publication_year": "publication year",
    "work_id": "work id",
    "media_type": "media type",
}
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        *((column, pa.string()) for column in FIELDS),
        ("rating", pa.float64()),
        ("timestamp", pa.int64()),
    ]
)
GENRES = (
    "children",
    "comics, graphic",
    "fantasy, paranormal",
    "fiction",
    "history, historical fiction, biography",
    "mystery, thriller, crime",
    "non-fiction",
    "poetry",
    "romance",
    "young-adult",
)
FORMATS = (
    "Paperback",
    "Hardcover",
    "Kindle Edition",
    "ebook",
    "Mass Market Paperback",
    "Audio CD",
    "Audiobook",
    "Nook",
    "Board Book",
    "Library Binding",
    "Trade Paperback",
    "Audible Audio",
    "Unknown Binding",
    "Comic",
    "Spiral-bound",
    "Graphic Novel",
    "Audio Cassette",
    "Leather Bound",
    "Boxed Set",
    "Broché",
)
MEDIA_TYPES = ("book", "periodical", "not a book")
WORDS = _words(
    """
    the of and a in to my her his last first night day city river sea moon sun star king queen girl
    boy man woman house garden road winter summer autumn spring rain snow fire shadow light dark
    blood bone heart soul dream memory secret promise lie truth song dance stone iron silver golden
    glass paper book letter word story tale history art war peace love death life world island
    mountain forest desert ocean sky wind storm thunder ghost angel demon dragon wolf raven fox lion
    tiger rose lily thorn crown throne sword knife bullet train ship bridge door window mirror clock
    hour minute year century morning evening midnight dawn dusk return rise fall end beginning lost
    found broken hidden forgotten forbidden stolen burning frozen silent wild little great big old
    new red blue green black white seven three hundred thousand days nights daughters sons brothers
    sisters mother father wife husband stranger hunter killer keeper thief witch doctor captain
    prince princess murder kiss game code prophecy legacy empire kingdom paris london château élan
    naïve coração über señor
    """
)
FIRST_NAMES = _words(
    """
    Anna Ben Clara David Elena Frank Grace Henry Irene James Kate Louis María Nora Oscar Paul Ruth
    Sofia Thomas Ursula Victor Wendy Zoë Émile Jürgen Haruki
    """
)
SYLLABLES = _words(
    """
    ba ber cor dan el fer gar hol in ker lan mor nel os pri ran sen tor ul win
    """
)


@dataclass(frozen=True)
class Sizes:
    """How many different users, books, authors, publishers and works a table is drawn from."""

    users: int
    books: int
    authors: int
    publishers: int
    works: int

    @classmethod
    def of(cls, rows: int) -> Sizes:
        """The sizes of a table with this number of rows."""
        books = max(10, rows // ROWS_PER_BOOK)
        return cls(
            users=max(10, rows // ROWS_PER_USER),
            books=books,
            authors=max(5, books // 3),
            publishers=max(5, books // 20),
            works=max(5, books * 4 // 5),
        )


class Interactions:
    """The table, drawn part by part; only the texts of users and books stay in memory.

    Args:
        rows: rows of the whole table.
        seed: another seed gives another table of the same kind.

    Raises:
        ValueError: ``rows`` is below 1 or the books outnumber the ids that they are given.
    """

    def __init__(self, rows: int, seed: int = 0) -> None:
        if rows < 1 or rows // ROWS_PER_BOOK >= LARGEST_BOOK_ID:
            raise ValueError(
                f"rows must be in 1..{LARGEST_BOOK_ID * ROWS_PER_BOOK - 1}, got {rows}"
            )
        self.rows = rows
        self.seed = seed
        self.sizes = Sizes.of(rows)
        self._users = self._user_ids()
        self._books = self._book_columns()

    def part(self, start: int, stop: int) -> pa.Table:
        """Rows ``start`` to ``stop`` (exclusive) with the columns of ``SCHEMA``."""
        rows = np.arange(start, stop)
        users = _skewed(self._draw(rows, "row's user"), self.sizes.users, 1.5)
        books = _skewed(self._draw(rows, "row's book"), self.sizes.books, 2.5)
        stars = _weighted(self._draw(rows, "row's rating"), SHARES_OF_STARS) + 1
        seconds = self._draw(rows, "row's time") * (LAST_SECOND - FIRST_SECOND)
        columns = {
            "row": pa.array(rows),
            "user_id": self._users.take(pa.array(users)),
            **{name: column.take(pa.array(books)) for name, column in self._books.items()},
            "rating": pa.array(stars.astype(np.float64)),
            "timestamp": pa.array(FIRST_SECOND + seconds.astype(np.int64)),
        }
        return pa.table([columns[name] for name in SCHEMA.names], SCHEMA)

    def parts(self, size: int) -> Iterator[pa.Table]:
        """The whole table, at most ``size`` rows at a time."""
        for start in range(0, self.rows, size):
            yield self.part(start, min(start + size, self.rows))

    def _draw(self, numbers: np.ndarray, of: str) -> np.ndarray:
        """Uniform float64 in [0, 1): the same for the same seed, number and purpose ``of``."""
        purpose = int.from_bytes(f"{self.seed} {of}".encode(), "little") % 0xFFFF_FFFF_FFFF_FFC5
        return (_hash(numbers, purpose) >> np.uint64(11)) * 2.0**-53

    def _user_ids(self) -> pa.Array:
        numbers = np.arange(self.sizes.users)
        halves = np.stack(
            [_hash(numbers, 2 * self.seed), _hash(numbers, 2 * self.seed + 1)], axis=1
        )
        return _fixed_width(halves.astype(">u8").tobytes().hex(), 32)

    def _book_columns(self) -> dict[str, pa.Array]:
        books = np.arange(self.sizes.books)
        authors = _skewed(self._draw(books, "author"), self.sizes.authors, 2.0)
        works = np.minimum(books, _skewed(self._draw(books, "work"), self.sizes.works, 1.0))
        publishers = _skewed(self._draw(books, "publisher"), self.sizes.publishers, 3.0)
        binding = _weighted(self._draw(books, "format"), 0.6 ** np.arange(len(FORMATS)))
        reviews = np.minimum(5 * (1 - self._draw(books, "reviews")) ** -0.9, 150_000)
        pages = 24 + 900 * self._draw(books, "pages") ** 1.6
        year = 2017 - 80 * self._draw(books, "year") ** 3
        stars = 450 - 200 * self._draw(books, "average rating") ** 2 + 40 * self._draw(books, "up")
        ebook = np.isin(binding, [2, 3, 7])
        medium = _weighted(self._draw(books, "media type"), (0.95, 0.03, 0.02))
        return {
            "book_id": _text(_scattered(books)),
            "title": self._titles(books),
            "genres": self._genres(books),
            "average_rating": _hundredths(stars.astype(np.int64)),
            "review_count": _text(reviews.astype(np.int64)),
            "author_id": _text(_scattered(authors)),
            "author_name": _names(authors, FIRST_NAMES),
            "page_count": self._missing(_text(pages.astype(np.int64)), books, "pages", 0.22),
            "is_ebook": pa.array(["false", "true"]).take(pa.array(ebook.astype(np.int8))),
            "format": self._missing(
                pa.array(FORMATS).take(pa.array(binding)), books, "format", 0.2
            ),
            "publisher": self._missing(self._publishers(publishers), books, "publisher", 0.2),
            "publication_year": self._missing(_text(year.astype(np.int64)), books, "year", 0.2),
            "work_id": _text(_scattered(works)),
            "media_type": self._missing(
                pa.array(MEDIA_TYPES).take(pa.array(medium)), books, "medium", 0.05
            ),
        }

    def _titles(self, books: np.ndarray) -> pa.Array:
        """One to seven words; a third with a series, "The Last Moon (Iron Crown, #2)"."""
        words = pa.array([word.capitalize() for word in WORDS])
        last = 1 + (7 * self._draw(books, "length") ** 1.3).astype(np.int64)
        parts = [self._words(books, words, f"word {n}", n < last) for n in range(7)]
        title = pc.binary_join_element_wise(*parts, " ", null_handling="skip")
        in_series = self._draw(books, "in a series") < 1 / 3
        series = pc.binary_join_element_wise(
            *(self._words(books, words, f"series {n}", in_series) for n in range(2)), " "
        )
        number = _text(1 + (8 * self._draw(books, "number in series") ** 2).astype(np.int64))
        named = pc.binary_join_element_wise(title, " (", series, ", #", number, ")", "")
        return pc.coalesce(named, title)

    def _words(self, books: np.ndarray, words: pa.Array, of: str, keep: np.ndarray) -> pa.Array:
        chosen = _skewed(self._draw(books, of), len(words), 1.5)
        return words.take(pa.array(chosen, mask=~keep))

    def _genres(self, books: np.ndarray) -> pa.Array:
        """One to four genres, the most fitting first, joined by ``|``; few books have none."""
        count = 1 + _weighted(self._draw(books, "genre count"), (0.3, 0.35, 0.25, 0.1))
        first = _skewed(self._draw(books, "genre"), len(GENRES), 1.3)
        step = 1 + _skewed(self._draw(books, "other genres"), 3, 2.0)
        names = pa.array(GENRES)
        parts = [
            names.take(pa.array((first + n * step) % len(GENRES), mask=n >= count))
            for n in range(4)  # steps of 1 to 3 among ten do not meet again in four
        ]
        joined = pc.binary_join_element_wise(*parts, "|", null_handling="skip")
        return self._missing(joined, books, "genre", 0.03)

    def _publishers(self, publishers: np.ndarray) -> pa.Array:
        words = pa.array([word.capitalize() for word in WORDS])
        kinds = pa.array(["Press", "Books", "Publishing", "House", "& Sons"])
        word = words.take(pa.array(_hash(publishers, 11) % np.uint64(len(words))))
        number = pa.array(publishers // len(words), mask=publishers < len(words))
        kind = kinds.take(pa.array(_hash(publishers, 12) % np.uint64(len(kinds))))
        parts = (word, pc.cast(number, pa.string()), kind)
        return pc.binary_join_element_wise(*parts, " ", null_handling="skip")

    def _missing(self, values: pa.Array, books: np.ndarray, of: str, share: float) -> pa.Array:
        gone = self._draw(books, f"missing {of}") < share
        return pc.if_else(pa.array(gone), pa.scalar(None, pa.string()), values)


def write_parquet(path: Path, rows: int, seed: int = 0) -> None:
    """Write the table as Parquet, one row group for each part."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for part in Interactions(rows, seed).parts(ROWS_PER_PART):
            writer.write_table(part)


def write_csv(path: Path, rows: int, seed: int = 0) -> None:
    """Write the table as CSV with a header; missing values are empty."""
    options = pa_csv.WriteOptions(quoting_style="needed")
    with pa_csv.CSVWriter(path, SCHEMA, write_options=options) as writer:
        for part in Interactions(rows, seed).parts(ROWS_PER_PART):
            writer.write_table(part)


def _hash(numbers: np.ndarray, purpose: int) -> np.ndarray:
    """(n,) uint64, one for each number and purpose; the finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        step = np.uint64(0x9E37_79B9_7F4A_7C15)
        start = (np.uint64(purpose) * np.uint64(0xD134_2543_DE82_EF95)) ^ np.uint64(0x5851_F42D)
        x = numbers.astype(np.uint64) * step + start
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        return x ^ (x >> np.uint64(31))


def _skewed(uniform: np.ndarray, size: int, power: float) -> np.ndarray:
    """Numbers below ``size``, low ones more often: P(number < x) = (x / size) ** (1 / power)."""
    return np.minimum((size * uniform**power).astype(np.int64), size - 1)


def _weighted(uniform: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Numbers below ``len(weights)`` in proportion to the weights."""
    ends = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(ends, uniform, side="right"), len(ends) - 1)


def _scattered(numbers: np.ndarray) -> np.ndarray:
    """Different ids for different numbers, in no visible order (the factor and the modulus share
    no divisor)."""
    return (numbers * 48_271 + 11) % LARGEST_BOOK_ID


def _names(numbers: np.ndarray, first_names: tuple[str, ...]) -> pa.Array:
    """A name for each number, different for different numbers: first name and syllables."""
    first = pa.array(first_names).take(pa.array(numbers % len(first_names)))
    rest = numbers // len(first_names)
    syllables = pa.array(SYLLABLES)
    family: list[pa.Array] = []
    while not family or (rest > 0).any() or len(family) < 2:
        used = rest > 0 if len(family) >= 2 else np.ones(len(rest), dtype=bool)
        family.append(syllables.take(pa.array(rest % len(SYLLABLES), mask=~used)))
        rest = rest // len(SYLLABLES)
    joined = pc.binary_join_element_wise(*family, "", null_handling="skip")
    return pc.binary_join_element_wise(first, pc.utf8_capitalize(joined), " ")


def _hundredths(numbers: np.ndarray) -> pa.Array:
    """387 -> "3.87"."""
    digits = np.stack([numbers // 100, numbers // 10 % 10, numbers % 10], axis=1) + ord("0")
    text = np.insert(digits, 1, ord("."), axis=1).astype(np.uint8)
    return _fixed_width(text.tobytes().decode("ascii"), 4)


def _text(numbers: np.ndarray) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string())


def _fixed_width(text: str, width: int) -> pa.Array:
    """Cut an ASCII text into strings of ``width`` characters."""
    offsets = np.arange(0, len(text) + 1, width, dtype=np.int32)
    buffers = pa.py_buffer(offsets.tobytes()), pa.py_buffer(text.encode("ascii"))
    return pa.StringArray.from_buffers(len(offsets) - 1, *buffers)


def main() -> None:
    """Write one file from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("target", type=Path)
    parser.add_argument("--csv", action="store_true", help="CSV instead of Parquet")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    write = write_csv if arguments.csv else write_parquet
    write(arguments.target, arguments.rows, arguments.seed)
    size = arguments.target.stat().st_size / 2**20
    print(f"{arguments.target}: {size:.0f} MiB in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
