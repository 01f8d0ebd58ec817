"""A terminal without a window: what a command's output looks like on it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

import pyte

COLUMNS, LINES = 140, 60


def screen_of(output: str) -> list[str]:
    """Lines on a terminal after ``output``."""
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed(output.replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display]


def in_a_terminal(command: Sequence[str], folder: Path) -> tuple[int, list[list[str]]]:
    """Run a command whose output is a terminal.

    Returns:
        Exit code, and the lines of the terminal each time that it was still for a moment.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(its)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    seen: list[list[str]] = []
    while True:
        try:
            written = os.read(ours, 65536)
        except OSError:  # nobody has it open any more
            written = b""
        if not written:
            break
        stream.feed(written)
        if not select.select([ours], [], [], 0.02)[0]:
            seen.append([line.rstrip() for line in screen.display])
    os.close(ours)
    seen.append([line.rstrip() for line in screen.display])
    return process.wait(), seen
