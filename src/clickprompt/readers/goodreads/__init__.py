"""Goodreads, in the JSON and the CSV form."""

from clickprompt.readers.goodreads.reader import read_goodreads

__all__ = ["read_goodreads"]
