"""Data in: files, folders of images, code and live objects, all as one kind of value."""

from compressor.data.dataset import Batch, Dataset, MapDataset, TensorDataset
from compressor.data.given import array_names, as_dataset, load_data
from compressor.data.stream import StreamDataset

__all__ = ["Batch", "Dataset", "MapDataset", "StreamDataset", "TensorDataset", "array_names", "as_dataset", "load_data"]
