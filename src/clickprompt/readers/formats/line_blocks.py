"""Published text files in lines, plain or gzipped -> blocks of whole lines, as a stream.

A file is never in memory whole. Every line is counted once, and what is odd about the file as a
whole (a byte order mark, blank lines, no line end after the last line) goes into the report.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from clickprompt.readers.report import EXAMPLE_LENGTH, ReadReport

BLOCK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 1 << 26  # far above any record; a file without line ends stops here
ROWS_PER_BATCH = 1 << 18  # of an interactions table that is read as a stream


class LineBlocks:
    """The unpacked file as blocks of whole lines; only the last line may lack its line end.

    Whoever iterates hands each block either to ``lines``, which counts its lines one by one, or,
    where every line of it is a row, to ``count``.

    Args:
        files: file name -> path.
        name: file name; ``name.gz`` serves too.
        kind: ``dropped`` for ratings, whose lines are counted as ``rows_read``, or ``skipped``.
        report: gets all events and, after the last block, the file's sha256.

    Raises:
        ValueError: the file is not given; while it is read: it is empty, damaged, no UTF-8 text,
            or has no line ends.
    """

    def __init__(
        self, files: Mapping[str, Path], name: str, *, kind: str, report: ReadReport
    ) -> None:
        given = files.get(name, files.get(f"{name}.gz"))
        if given is None:
            raise ValueError(f"files must hold {name}, got {', '.join(sorted(files)) or 'none'}")
        self.path = Path(given)
        self.name = name
        self.kind = kind
        self.report = report
        self.number = 0  # of the last line that was counted
        self._blank: list[int] = []
        self._rows = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the blocks."""
        digest = hashlib.sha256()
        rest = b""
        for position, block in enumerate(unpacked_blocks(self.path, BLOCK_BYTES)):
            digest.update(block)
            if position == 0:
                block = self._start(block)
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
            if len(rest) > LONGEST_LINE_BYTES:
                raise ValueError(
                    f"{self.path} must hold one record a line, got more than {LONGEST_LINE_BYTES} "
                    f"bytes in line {self.number + 1}: {example(rest)!r}"
                )
        if rest:
            yield rest
        self.report.files[self.name] = digest.hexdigest()
        if self._rows == 0:
            raise ValueError(f"{self.path} must hold rows, got an empty file")
        if rest.strip():
            note = "no line end after the last line: the file may be truncated"
            self.report.add("repaired", "no_final_line_end", self.name, 1, [(self.number, note)])

    def lines(self, block: bytes) -> Iterator[tuple[int, bytes]]:
        """Number (from 1) and text of the block's lines, with line end, blank ones left out."""
        # bytes.splitlines would cut at a lone carriage return too
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield from self._line(line + b"\n")
        if rest:
            yield from self._line(rest)

    def count(self, rows: int) -> int:
        """Count the ``rows`` lines of a block without a blank one; the number of its first."""
        first = self.number + 1
        self.number += rows
        self._add_rows(rows)
        return first

    def _line(self, line: bytes) -> Iterator[tuple[int, bytes]]:
        self.number += 1
        if line.strip():
            self._add_rows(1)
            yield self.number, line
        else:
            self._blank.append(self.number)

    def _add_rows(self, rows: int) -> None:
        for earlier in self._blank:  # those after the last row are no gap
            self.report.add("skipped", "blank_line", self.name, 1, [(earlier, "")])
        self._blank = []
        self._rows += rows
        if self.kind == "dropped":
            self.report.rows_read += rows

    def _start(self, block: bytes) -> bytes:
        """The first block, checked to be text, without its byte order mark."""
        if block[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in block[:1000]:
            raise ValueError(f"{self.path} must be utf-8 text, got UTF-16 or binary data")
        if block[:3] != b"\xef\xbb\xbf":
            return block
        note = "byte order mark left out"
        self.report.add("repaired", "byte_order_mark", self.name, 1, [(1, note)])
        return block[3:]


def example(line: bytes) -> str:
    """The start of a line as text for the report."""
    return line[: 4 * EXAMPLE_LENGTH].decode("utf-8", "replace").strip()[: EXAMPLE_LENGTH + 1]


def unpacked_blocks(path: Path, size: int) -> Iterator[bytes]:
    """Bytes of a file, plain or gzipped; a damaged gzip file is a ValueError."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    stream: io.BufferedIOBase
    with gzip.open(path) if packed else path.open("rb") as stream:
        try:
            while block := stream.read(size):
                yield block
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{path} must be a whole gzip file, got a damaged one: {error}"
            ) from None
