"""Reference to a trained stage: the weights lie in a folder, the catalog keeps where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro_datasets.json import JSONDataset

if TYPE_CHECKING:
    from clickprompt.training.result import TrainedModel


class TrainedModelDataset(JSONDataset):
    """A ``TrainedModel`` as JSON: stage, digest, folder and report.

    The dataset exists only while the folder that it points to does, so deleted weights
    are trained again by an up-to-date run.
    """

    def load(self) -> TrainedModel:
        """Read the reference."""
        from clickprompt.training.result import TrainedModel

        return TrainedModel.model_validate(super().load())

    def save(self, data: TrainedModel) -> None:
        """Write the reference; the weights themselves are the training's to write."""
        super().save(data.model_dump(mode="json"))

    def files(self) -> list[Path]:
        """The JSON file and all files of the folder that it points to."""
        reference = Path(str(self._filepath))
        if not reference.is_file():
            return []
        folder = Path(self.load().folder)
        return [reference, *sorted(path for path in folder.rglob("*") if path.is_file())]

    def _exists(self) -> bool:
        return super()._exists() and Path(self.load().folder).is_dir()

    def preview(self) -> Any:
        """Show the report in Kedro-Viz."""
        return super().preview()
