"""What every environment of ``conf`` must say of its own columns."""

from __future__ import annotations

import pytest

from benchmarks.project import REPOSITORY, base_parameters

ENVIRONMENTS = sorted(
    folder.name
    for folder in (REPOSITORY / "conf").iterdir()
    if folder.is_dir() and (folder / "globals.yml").exists()
)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_user_tower_reads_columns_of_the_data_and_leaves_some_for_the_item(environment):
    parameters = base_parameters(environment)
    columns = [field.column for field in parameters.data.fields]
    users = parameters.model.ctr_bert.user_fields
    assert set(users) < set(columns)
    # what describes a user stands before what describes an item, in every environment
    assert list(users) == columns[: len(users)]
