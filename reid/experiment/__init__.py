"""From the config to built objects: the only package that sees the whole Config and knows every builder and dataset.

data.py: the dataset and its labels · model.py: the network · training.py: a training run · checking.py: mistakes, before any of it ·
longer.py: whether a run may go on for longer · trained.py: a trained network, from wherever it lies · published.py:
a folder, or a repository of the Hugging Face hub, that holds one.
"""

from reid.experiment.checking import check
from reid.experiment.data import DATASETS, LabelledData, drawn_again, drawn_by_table, load_benchmark, load_data, located
from reid.experiment.longer import require_same_past
from reid.experiment.model import build_classifier, build_embedding
from reid.experiment.trained import OfRun, OfWeights, Source, Trained, data_as_trained, known_noise, trained_on
from reid.experiment.training import build_job, build_loss

__all__ = [
    "DATASETS",
    "LabelledData",
    "OfRun",
    "OfWeights",
    "Source",
    "Trained",
    "build_classifier",
    "build_embedding",
    "build_job",
    "build_loss",
    "check",
    "data_as_trained",
    "drawn_again",
    "drawn_by_table",
    "known_noise",
    "load_benchmark",
    "load_data",
    "located",
    "require_same_past",
    "trained_on",
]
