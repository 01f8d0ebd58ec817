"""Small tables of a user's own, and how they are read."""

from __future__ import annotations

from pathlib import Path

from clickprompt.parameters import DataParameters
from clickprompt.readers import ReadResult, read_interactions

CRITEO_COLUMNS = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]


def parameters(**changes: object) -> DataParameters:
    """A label and one field; no user, no item, no time."""
    given: dict[str, object] = {
        "reader": "table",
        "user": None,
        "item": None,
        "time": None,
        "label": {"column": "label", "positive_from": 1, "negative_to": 0},
        "fields": [{"column": "a", "name": "a"}],
    }
    return DataParameters.model_validate(given | changes)


def fields(*columns: str, **kinds: str) -> list[dict[str, str]]:
    plain = [{"column": column, "name": column} for column in columns]
    return plain + [{"column": c, "name": c, "kind": kind} for c, kind in kinds.items()]


def read(folder: Path, *raw: bytes, **changes: object) -> ReadResult:
    files = {}
    for number, content in enumerate(raw):
        name = f"part{number}.csv"
        (folder / name).write_bytes(content)
        files[name] = folder / name
    return read_interactions(files, parameters(**changes))


def criteo_row(label: int, integers: list[str], categories: list[str]) -> str:
    return "\t".join([str(label), *integers, *categories])


def criteo(rows: int) -> bytes:
    """Invented rows in the published layout of Criteo's display advertising challenge."""
    lines = []
    for row in range(rows):
        integers = [
            "" if (row + i) % 5 == 0 else str((row * 7 + i * 3) % 50 - 2) for i in range(13)
        ]
        categories = [
            "" if (row + i) % 11 == 0 else f"{(row % 4 + i) * 2654435761 % 2**32:08x}"
            for i in range(26)
        ]
        lines.append(criteo_row(int(row % 4 == 0), integers, categories))
    return ("\n".join(lines) + "\n").encode()


def avazu(rows: int) -> bytes:
    """Invented rows in the published layout of Avazu's click-through rate challenge."""
    header = (
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
        "app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
        "C14,C15,C16,C17,C18,C19,C20,C21"
    )
    lines = [header]
    for row in range(rows):
        code = [f"{(row % (i + 2) + i) * 2654435761 % 2**32:08x}" for i in range(9)]
        numbers = [15700 + row % 7, 320, 50, 1700 + row % 3, row % 4, 35, -1, 79 + row % 5]
        cells = [
            1000009418151094273 + row * 10**15, int(row % 6 == 0), f"141021{row * 24 // rows:02d}",
            1005, row % 2, *code, 1, 0, *numbers,
        ]  # fmt: skip
        lines.append(",".join(map(str, cells)))
    return ("\n".join(lines) + "\n").encode()
