"""The project's own Kedro datasets, and the catalog that writes whole files only.

Nothing here imports torch or mlflow: Kedro imports this package to list the catalog.
"""

from clickprompt.datasets.bundle import BundleDataset
from clickprompt.datasets.catalog import WholeFileCatalog
from clickprompt.datasets.field_codes import FieldCodesDataset
from clickprompt.datasets.interactions import InteractionsDataset
from clickprompt.datasets.model_input import ModelInputDataset
from clickprompt.datasets.raw_files import RawFilesDataset
from clickprompt.datasets.study_records import StudyRecordsDataset
from clickprompt.datasets.trained_model import TrainedModelDataset

__all__ = [
    "BundleDataset",
    "FieldCodesDataset",
    "InteractionsDataset",
    "ModelInputDataset",
    "RawFilesDataset",
    "StudyRecordsDataset",
    "TrainedModelDataset",
    "WholeFileCatalog",
]
