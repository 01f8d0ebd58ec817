"""A runner that, like make, repeats nothing that is up to date.

Every node has a stamp: a digest over its function, its typed parameters, the raw files, the
stamps of what it reads and the version of this package. A node whose outputs are all on disk,
unchanged, and were written under the same stamp is skipped. The stamps lie in one small
JSON file beside the data; deleting it makes everything again.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.runner import SequentialRunner
from kedro.runner.task import Task
from pydantic import BaseModel

from clickprompt import __version__
from clickprompt.files import file_digest
from clickprompt.parameters import PLMParameters, TrainingParameters
from clickprompt.running import RunInterruptedError
from clickprompt.training.ranks import world_size

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node
    from pluggy import PluginManager

    from clickprompt.training.group import RunGroup

logger = logging.getLogger(__name__)

SECONDS_TO_HEAR = 10.0  # what the first process has to say of an error, before this one says it


class UpToDateRunner(SequentialRunner):
    """Runs node after node and skips what is up to date.

    A node without outputs (it shows something) always runs; one whose outputs live in memory
    only runs when a node that reads them does; one with outputs whose files cannot be seen (remote
    or versioned) always runs.

    Where several processes run the same pipeline (`clickprompt.training.group`), the first one does
    so; the others take part in the nodes with the tag ``training`` and save nothing.

    Args:
        is_async: load and save with threads, as Kedro's runners.
        stamps: the stamps file, relative to the working folder.
        wanted: datasets that the caller reads from the result, though they live in memory.
    """

    def __init__(
        self,
        is_async: bool = False,
        stamps: str = "data/.stamps.json",
        wanted: Iterable[str] = (),
    ) -> None:
        super().__init__(is_async=is_async)
        self._stamps = Stamps(Path(stamps))
        self._wanted = frozenset(wanted)

    def __str__(self) -> str:
        return "clickprompt.runner.UpToDateRunner"  # Kedro records it

    def _run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        group = _run_group(catalog)
        if group is None:
            self._run_nodes(pipeline, catalog, hook_manager, run_id)
        elif group.leads:
            try:
                self._run_nodes(pipeline, catalog, hook_manager, run_id, group)
            except BaseException as error:
                group.fail(error)
                raise
            group.finish()
        else:
            try:
                _follow(group, pipeline, catalog)
            except ChildProcessError:  # the first one ended, which this process says before it ends
                atexit.register(group.wait_for_first)
                raise

    def _run_nodes(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None,
        run_id: str | None,
        group: RunGroup | None = None,
    ) -> None:
        stamps = self._stamp_datasets(pipeline, catalog)
        nodes = self._stale_nodes(pipeline, catalog, stamps)
        if group:
            group.tell(nodes=[node.name for node in nodes])
        for node in pipeline.nodes:
            if node not in nodes:
                logger.info("up to date: %s", node.name)
        load_counts = Counter(chain.from_iterable(node.inputs for node in nodes))
        for number, node in enumerate(nodes, start=1):
            logger.info("running: %s (%d of %d)", node.name, number, len(nodes))
            try:
                Task(node, catalog, self._is_async, hook_manager, run_id).execute()
            except KeyboardInterrupt:
                raise RunInterruptedError(f"interrupted in {node.name}") from None
            for name in node.outputs:
                if files := _files(catalog, name):
                    self._stamps.record(files, stamps[_plain(name)])
            self._release_datasets(node, catalog, load_counts, pipeline)
            if group:
                group.tell(done=node.name)

    def _stamp_datasets(self, pipeline: Pipeline, catalog: CatalogProtocol) -> dict[str, str]:
        """Stamp of every dataset of ``pipeline``, known before anything runs."""
        stamps = {_plain(name): self._stamp_input(catalog, name) for name in pipeline.inputs()}
        for node in pipeline.nodes:
            function = node.func
            name = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
            reads = [stamps[_plain(read)] for read in node.inputs]
            for output in node.outputs:
                stamps[_plain(output)] = _digest([__version__, name, reads, output])
        return stamps

    def _stamp_input(self, catalog: CatalogProtocol, name: str) -> str:
        """Stamp of something that no node of the pipeline makes."""
        if name == "parameters" or name.startswith("params:"):
            return _digest(_parameter(catalog.load(name)))
        files = _files(catalog, name)
        if not files:  # in memory, remote or absent: nothing to compare with
            return os.urandom(16).hex()
        stamp = self._stamps.recorded(files)
        if stamp is None:
            stamp = _digest([[path.name, file_digest(path)] for path in files])
            self._stamps.record(files, stamp)
        return stamp

    def _stale_nodes(
        self, pipeline: Pipeline, catalog: CatalogProtocol, stamps: dict[str, str]
    ) -> list[Node]:
        """Nodes that must run, in order."""
        stale: list[Node] = []
        wanted = set(self._wanted)
        for node in reversed(pipeline.nodes):
            outputs = [name for name in node.outputs if not _in_memory(catalog, name)]
            if (
                not node.outputs
                or not wanted.isdisjoint(map(_plain, set(node.outputs) - set(outputs)))
                or any(self._is_stale(catalog, name, stamps[_plain(name)]) for name in outputs)
            ):
                stale.append(node)
                wanted.update(map(_plain, node.inputs))
        return stale[::-1]

    def _is_stale(self, catalog: CatalogProtocol, name: str, stamp: str) -> bool:
        files = _files(catalog, name)
        return not files or self._stamps.recorded(files) != stamp


def _run_group(catalog: CatalogProtocol) -> RunGroup | None:
    """Asked without torch where there is one process."""
    raw = catalog.load("parameters") if "parameters" in catalog else {}
    training = TrainingParameters.model_validate(raw.get("training", {}))
    if world_size() == 1 and training.processes * training.machines == 1:
        return None
    from clickprompt.training.group import run_group

    return run_group(training)


def _follow(group: RunGroup, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Train with the first process, and wait for it in between."""
    nodes = {node.name: node for node in pipeline.nodes}
    for name in group.hear()["nodes"]:
        node = nodes[name]
        if "training" in node.tags:
            try:
                node.run({read: catalog.load(read) for read in node.inputs})
            except Exception:
                # The same error ends the first process, or the loss of the first one is this error.
                with suppress(TimeoutError):
                    group.hear(seconds=SECONDS_TO_HEAR)
                raise
        group.hear()
    group.hear()


class Stamps:
    """The stamps file: for the first file of a dataset, its stamp and all files' size and time.

    Environments that write to other folders share it. It is read anew before each write: two runs
    at once lose at worst a stamp, which costs a repetition and never a wrong skip.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def recorded(self, files: list[Path]) -> str | None:
        """The stamp under which ``files`` were written, if all of them are unchanged since."""
        state = self._state(files)
        entry = self._read().get(next(iter(state)))
        if not isinstance(entry, dict) or entry.get("files") != state:
            return None
        return str(entry["stamp"])

    def record(self, files: list[Path], stamp: str) -> None:
        """Note that ``files`` hold what ``stamp`` stands for."""
        state = self._state(files)
        stamps = self._read() | {next(iter(state)): {"stamp": stamp, "files": state}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".unfinished-{os.getpid()}-{self._path.name}")
        aside.write_text(json.dumps(stamps, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(aside, self._path)

    def _read(self) -> dict[str, Any]:
        try:
            stamps = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            logger.warning("%s is damaged (%s): everything is made again", self._path, error)
            return {}
        return stamps if isinstance(stamps, dict) else {}

    def _state(self, files: Iterable[Path]) -> dict[str, list[int]]:
        # Relative names: a project that is moved as a whole stays up to date.
        base = self._path.parent.resolve()
        return {
            os.path.relpath(path.resolve(), base): [path.stat().st_size, path.stat().st_mtime_ns]
            for path in files
        }


def _parameter(value: Any) -> Any:
    """A parameter as JSON; a language model in a local folder stands for its files too."""
    if not isinstance(value, BaseModel):
        return value
    plain = value.model_dump(mode="json")
    if isinstance(value, PLMParameters) and (folder := Path(value.source)).is_dir():
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        plain["files"] = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    return plain


def _files(catalog: CatalogProtocol, name: str) -> list[Path]:
    """Local files of a dataset, its own file first; none where they cannot be seen."""
    dataset: Any = catalog.get(name)
    if hasattr(dataset, "files"):
        return list(dataset.files())
    if getattr(dataset, "_version", None) or getattr(dataset, "_protocol", "file") != "file":
        return []
    location = getattr(dataset, "_filepath", None)
    if location is None:
        return []
    path = Path(str(location))
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def _in_memory(catalog: CatalogProtocol, name: str) -> bool:
    dataset = catalog.get(name, fallback_to_runtime_pattern=True)
    return bool(getattr(dataset, "_EPHEMERAL", False))


def _plain(name: str) -> str:
    """Name of a dataset without Kedro's transcoding (``table@pandas`` and ``table@spark``)."""
    return name.split("@", maxsplit=1)[0]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
