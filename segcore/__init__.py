"""Segmentation networks: data, training, scores, ensembles. It knows nothing of the search.

    from segcore import TrialConfig, fit, prepare_data

Names are imported when they are first used, so that ``import segcore`` takes no time.
"""

from typing import TYPE_CHECKING

from segcore.importing import import_when_used

if TYPE_CHECKING:
    from segcore.config import IGNORE_INDEX as IGNORE_INDEX
    from segcore.config import TrialConfig as TrialConfig
    from segcore.config import View as View
    from segcore.data.dataset import Dataset as Dataset
    from segcore.data.dataset import load_dataset as load_dataset
    from segcore.data.prepared import PreparedData as PreparedData
    from segcore.data.preparing import prepare_data as prepare_data
    from segcore.errors import TrainingFailedError as TrainingFailedError
    from segcore.errors import UserError as UserError
    from segcore.facts import DataFacts as DataFacts
    from segcore.predicting.ensemble import Ensemble as Ensemble
    from segcore.predicting.ensemble import write_bundle as write_bundle
    from segcore.reading.images import read_image as read_image
    from segcore.scenes import default_scenes as default_scenes
    from segcore.scores.metrics import Scores as Scores
    from segcore.training.fit import EpochResult as EpochResult
    from segcore.training.fit import fit as fit

_HOMES = {
    "Dataset": "segcore.data.dataset",
    "Ensemble": "segcore.predicting.ensemble",
    "EpochResult": "segcore.training.fit",
    "IGNORE_INDEX": "segcore.config",
    "View": "segcore.config",
    "DataFacts": "segcore.facts",
    "PreparedData": "segcore.data.prepared",
    "Scores": "segcore.scores.metrics",
    "TrainingFailedError": "segcore.errors",
    "TrialConfig": "segcore.config",
    "UserError": "segcore.errors",
    "default_scenes": "segcore.scenes",
    "fit": "segcore.training.fit",
    "load_dataset": "segcore.data.dataset",
    "prepare_data": "segcore.data.preparing",
    "read_image": "segcore.reading.images",
    "write_bundle": "segcore.predicting.ensemble",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = import_when_used(__name__, _HOMES)
