"""Data in: files, folders of images, code and live objects as one kind of data set."""

from compressor.data.dataset import Batch, Dataset, TensorDataset
from compressor.data.files import load_data
from compressor.data.live import as_dataset
from compressor.data.stream import StreamDataset

__all__ = ["Batch", "Dataset", "StreamDataset", "TensorDataset", "as_dataset", "load_data"]
