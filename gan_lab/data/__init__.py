"""Raw files in, one memory-mapped uint8 array out; from the array, batches on the device."""

from gan_lab.data.array import ImageArray, open_array, read_rows, write_array
from gan_lab.data.batches import Batch, Batches, to_pixels, to_unit_range
from gan_lab.data.folder import FolderImages

__all__ = [
    "Batch",
    "Batches",
    "FolderImages",
    "ImageArray",
    "open_array",
    "read_rows",
    "to_pixels",
    "to_unit_range",
    "write_array",
]
