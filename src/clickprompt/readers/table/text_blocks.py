"""Text files, plain or gzipped, -> blocks of whole lines in UTF-8, in bounded memory."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from pathlib import Path

from clickprompt.readers.formats.line_blocks import unpacked_blocks
from clickprompt.readers.report import ReadReport

BLOCK_BYTES = 1 << 23
LONGEST_LINE_BYTES = 1 << 26  # far above any row; a file without line ends stops here
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def text_blocks(
    path: Path, name: str, encoding: str, report: ReadReport, size: int = BLOCK_BYTES
) -> Iterator[bytes]:
    """Read a file block by block.

    Args:
        path: the file, plain or gzipped.
        name: what the report calls it.
        encoding: of the unpacked bytes.
        report: gets a byte order mark that was left out and, in the end, the sha256 of the unpacked
            bytes.
        size: of the blocks, in bytes before decoding.

    Yields:
        UTF-8 that ends with a line end (line feed, carriage return or both), the last one
        perhaps not.

    Raises:
        ValueError: a damaged gzip file, binary data, another encoding, or a line that is too long.
    """
    digest = hashlib.sha256()
    decoder: codecs.IncrementalDecoder | None = None
    rest, line = b"", 1
    for position, raw in enumerate(unpacked_blocks(path, size)):
        digest.update(raw)
        if position == 0:
            raw, encoding = _start(raw, path, name, encoding, report)
            if encoding != "utf-8":
                decoder = codecs.getincrementaldecoder(encoding)()
        if decoder is not None:
            raw = _decoded(decoder, raw, path, encoding, line + count_lines(rest))
        data = rest + raw
        # a carriage return at the very end may be half of a line end
        cut = 1 + max(data.rfind(b"\n"), data.rfind(b"\r", 0, max(len(data) - 1, 0)))
        block, rest = data[:cut], data[cut:]
        if len(rest) > LONGEST_LINE_BYTES:
            raise ValueError(
                f"{path} must have lines of at most {LONGEST_LINE_BYTES} bytes, got a longer one, "
                f"line {line + count_lines(block)}: {rest[:80].decode('utf-8', 'replace')!r}"
            )
        if block:
            _require_utf8(block, path, line)
            line += count_lines(block)
            yield block
    if decoder is not None:
        rest += _decoded(decoder, b"", path, encoding, line)
    if rest:
        _require_utf8(rest, path, line)
        yield rest
    report.files[name] = digest.hexdigest()


def count_lines(text: bytes) -> int:
    """Number of line ends: line feed, carriage return, or both in a row."""
    count = text.count(b"\n")
    if b"\r" in text:
        count += text.count(b"\r") - text.count(b"\r\n")
    return count


def _start(
    raw: bytes, path: Path, name: str, encoding: str, report: ReadReport
) -> tuple[bytes, str]:
    """The first bytes, checked to be text, without a byte order mark, and their encoding."""
    wide = encoding.startswith(("utf-16", "utf-32"))
    if not wide and (raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw[:1000]):
        raise ValueError(
            f"{path} must be {encoding} text, got UTF-16 or binary data "
            "(data.table.encoding: utf-16 reads the former)"
        )
    if wide or not raw.startswith(BYTE_ORDER_MARK):
        return raw, encoding
    report.add("repaired", "byte_order_mark", name, 1, [(1, "byte order mark left out")])
    return raw[len(BYTE_ORDER_MARK) :], "utf-8"


def _decoded(
    decoder: codecs.IncrementalDecoder, raw: bytes, path: Path, encoding: str, line: int
) -> bytes:
    try:
        return decoder.decode(raw, final=not raw).encode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "ignore")
        line += count_lines(before.encode("utf-8", "ignore"))
        byte = error.object[error.start]
        raise _encoding_error(path, encoding, line, byte, before.splitlines()[-1:]) from None
    except UnicodeError as error:  # a lone surrogate, or no byte order mark where one must be
        raise ValueError(f"{path} must be {encoding} text, got line {line}: {error}") from None


def _require_utf8(block: bytes, path: Path, line: int) -> None:
    if block.isascii():
        return
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        line += count_lines(block[: error.start])
        start = max(block.rfind(b"\n", 0, error.start) + 1, error.start - 40)
        shown = block[start : error.start + 40].partition(b"\n")[0].decode("latin-1")
        raise _encoding_error(path, "utf-8", line, block[error.start], [shown]) from None


def _encoding_error(
    path: Path, encoding: str, line: int, byte: int, shown: list[str]
) -> ValueError:
    text = shown[0][-80:] if shown else ""
    return ValueError(
        f"{path} must be {encoding} text, got byte 0x{byte:02x} in line {line}: {text!r} "
        "(data.table.encoding names another encoding, such as cp1252)"
    )
