"""How ``conf/`` is read: parameters are checked as a whole, and complete."""

from __future__ import annotations

import copy
from typing import Any

from kedro.config import OmegaConfigLoader

from clickprompt.parameters import check_parameters
from clickprompt.running import running_part


class CheckedConfigLoader(OmegaConfigLoader):
    """Gives the parameters as the nodes get them, to whoever reads them.

    Kedro validates each node's parameters by themselves, but what ``fidelity`` or a model's entry
    in ``ctr_sizes`` decides only the whole can fill in. A hook could do it for a run; Kedro-Viz
    runs none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        part = running_part()
        if part is not None and part.config is not None:
            # Of a study's cells each has a session; reading the same files would take its time.
            self.update(copy.deepcopy(dict(part.config)))

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration of this kind.

        Raises:
            ParameterError: of the parameters, all mistakes at once.
        """
        found = super().__getitem__(key)
        if key == "parameters" and key not in self:
            found = check_parameters(found).model_dump()
            self[key] = found
        return found
