"""A table of the user's own, and the proposal of an environment for it."""

from clickprompt.readers.table.reader import read_table_files

__all__ = ["read_table_files"]
