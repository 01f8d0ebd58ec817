"""How ``conf/`` is read: parameters are checked as a whole, and complete."""

from __future__ import annotations

from typing import Any

from kedro.config import OmegaConfigLoader

from clickprompt.parameters import check_parameters


class CheckedConfigLoader(OmegaConfigLoader):
    """Gives the parameters as the nodes get them, to whoever reads them.

    Kedro validates each node's parameters by themselves, but what ``fidelity`` or a model's entry
    in ``ctr_sizes`` decides only the whole can fill in. A hook could do it for a run; Kedro-Viz
    runs none.
    """

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
