from __future__ import annotations

import json

import pytest

from tests.training import golden_losses


def test_the_first_steps_have_the_recorded_losses(model_input, plm):
    recorded = json.loads(golden_losses.FILE.read_text())
    found = golden_losses.losses(model_input, plm)
    assert found.keys() == recorded.keys()
    for stage, values in recorded.items():
        assert found[stage] == pytest.approx(values, rel=1e-6), stage
        assert sum(values[-3:]) < sum(values[:3]), f"{stage} does not learn its three batches"
