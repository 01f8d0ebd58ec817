"""Studies: grids of cells, each a tracked run, ending in tables, figures and a page.

- :mod:`~clickprompt.studies.models`: what a cell may train.
- :mod:`~clickprompt.studies.cells`: from the declared axes to checked cells with digests.
- :mod:`~clickprompt.studies.records`: what is kept of them.
- :mod:`~clickprompt.studies.plan`: what is done and left, and how long it takes.
- :mod:`~clickprompt.studies.runner`: ``kedro study``; it and the next are all that knows Kedro.
- :mod:`~clickprompt.studies.jobs`: trains cells, a session each, several at once in processes.
- :mod:`~clickprompt.studies.summary`: means, tests, long tail as a plain dict.
- :mod:`~clickprompt.studies.tables`, :mod:`~clickprompt.studies.figures`,
  :mod:`~clickprompt.studies.page`: made from it.
"""
