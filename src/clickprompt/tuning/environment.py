"""The best parameters as an environment: ``conf/<name>``, read by ``kedro run --env=<name>``.

It holds all that the search ran with: the files of the environment it ran in, the parameters of the
command line, and the tuned ones. Parameters are merged into one file, since Kedro lets no two files
of an environment name the same group.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clickprompt.files import replace_folder
from clickprompt.nested import merged, nested
from clickprompt.tuning.study import TunedStudy, finished_trials

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
BASE = "base"  # read under every environment, so that nothing of it is copied
KEDRO_OWN = (BASE, "local")
PARAMETERS = "parameters.yml"
GLOBALS = "globals.yml"
MARK = re.compile(r"^# kedro tune, study (\S+), files ([0-9a-f]{64})$", re.MULTILINE)


def check_environment(conf: Path, name: str, study: str, *, force: bool) -> None:
    """Whether ``conf/<name>`` may be written, before any work.

    Raises:
        ValueError: the name cannot be used, or the folder is another study's, was edited or was
            written by hand, and ``force`` is not given.
    """
    if not NAME.fullmatch(name) or name in KEDRO_OWN:
        raise ValueError(
            f"the environment must be made of letters, digits, - and _, a letter first, and be "
            f"none of {', '.join(KEDRO_OWN)}, got {name!r}"
        )
    folder = conf / name
    if force or not folder.exists():
        return
    mark = _mark(folder)
    if mark is None:
        found = "one that was written by hand"
    elif mark[1] != study:
        found = f"that of study {mark[1]}"
    elif mark[2] != _files_digest(folder):
        found = "one that was edited since"
    else:
        return
    raise ValueError(
        f"conf/{name} must be new or as study {study} has written it, got {found}: "
        "--force replaces it, --write takes another name"
    )


def write_environment(
    tuned: TunedStudy,
    *,
    conf: Path,
    name: str,
    source: str,
    changes: Mapping[str, Any],
    command: str,
    force: bool = False,
) -> Path:
    """Write the best parameters of a study as ``conf/<name>``.

    Files with credentials are not copied.

    Args:
        tuned: the study.
        conf: the folder of environments.
        name: of the new one.
        source: environment that the search ran in, a folder of ``conf``.
        changes: parameters of the command line, nested.
        command: that searched, for the comment.
        force: replace an environment that was edited, too.

    Returns:
        Its folder.

    Raises:
        ValueError: see :func:`check_environment`.
    """
    check_environment(conf, name, tuned.name, force=force)
    origin = conf / source
    read: dict[str, dict[str, Any]] = {"parameters": {}, "globals": {}}
    copied: list[Path] = []
    for path in sorted(origin.rglob("*")) if source != BASE else []:
        place = path.relative_to(origin)
        if path.is_dir() or any(part.startswith(".") for part in place.parts):
            continue
        kind = next((kind for kind in (*read, "credentials") if _is_kind(place, kind)), None)
        if kind is None:
            copied.append(place)
        elif kind in read and path.suffix in (".yml", ".yaml", ".json"):
            content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            assert isinstance(content, dict)
            read[kind] = merged(read[kind], {str(key): part for key, part in content.items()})
    parameters = merged(merged(read["parameters"], changes), nested(tuned.best_values))
    count, best = len(finished_trials(tuned.study)), tuned.best
    folder = conf / name

    def write(aside: Path) -> None:
        for place in copied:
            (aside / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / place, aside / place)
        (aside / GLOBALS).write_text(_yaml(read["globals"] | {"data": f"data/{name}"}))
        (aside / PARAMETERS).write_text(
            f"# The best of {count} trials on valid: trial {best.number}, "
            f"valid AUC {best.value!r}.\n# {command}\n"
            f"# Tuned: {', '.join(tuned.best_values)}; the rest is what the search ran with.\n\n"
            + _yaml(parameters),
            encoding="utf-8",
        )
        mark = f"# kedro tune, study {tuned.name}, files {_files_digest(aside)}\n"
        text = (aside / PARAMETERS).read_text(encoding="utf-8")
        (aside / PARAMETERS).write_text(mark + text, encoding="utf-8")

    replace_folder(folder, write)
    return folder


def _is_kind(place: Path, kind: str) -> bool:
    """Whether Kedro reads the file as ``kind`` (its patterns ``kind*``, ``kind*/**``)."""
    return any(fnmatch(part, f"{kind}*") for part in place.parts)


def _mark(folder: Path) -> re.Match[str] | None:
    path = folder / PARAMETERS
    return MARK.search(path.read_text(encoding="utf-8")) if path.is_file() else None


def _files_digest(folder: Path) -> str:
    """sha256 over names and contents of the files, without the mark itself."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path == folder / PARAMETERS:
            content = MARK.sub("", content.decode()).lstrip().encode()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _yaml(content: Mapping[str, Any]) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(dict(content)))
