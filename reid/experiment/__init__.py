"""Building objects from the config: the only package that uses the whole Config, every builder and every dataset.

data.py: the dataset and its labels · noise.py: label noise · model.py: the network · training.py: a training run · checking.py: config
errors, found before training · longer.py: whether a run can be resumed with another number of iterations · trained.py: loading a trained
network from a run or a weight file, or (exported.py) from an ONNX file · published.py: saving and loading
a network as a folder or a Hugging Face hub repository.
"""

from reid.experiment.checking import check
from reid.experiment.data import DATASETS, LabelledData, drawn_again, drawn_by_table, load_benchmark, load_data, located
from reid.experiment.exported import OfExport
from reid.experiment.longer import require_same_past
from reid.experiment.model import build_classifier, build_embedding
from reid.experiment.trained import OfRun, OfWeights, Source, Trained, data_as_trained, known_noise, trained_on
from reid.experiment.training import build_job, build_loss

__all__ = [
    "DATASETS",
    "LabelledData",
    "OfExport",
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
