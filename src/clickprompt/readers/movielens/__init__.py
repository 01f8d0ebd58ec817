"""MovieLens: latest-small, 1M and 100K."""

from clickprompt.readers.movielens.ml_1m import read_movielens_1m
from clickprompt.readers.movielens.ml_100k import read_movielens_100k
from clickprompt.readers.movielens.shared import OPTIONS
from clickprompt.readers.movielens.small import read_movielens_small

__all__ = ["OPTIONS", "read_movielens_1m", "read_movielens_100k", "read_movielens_small"]
