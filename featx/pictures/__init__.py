"""Pictures: list a data set, read its label files, decode a file, resize and vary its pixels.

Everything featx does with pixels goes through here: one decoder, one resizer.
"""

from featx.pictures.dataset import Listing, Picture, printable
from featx.pictures.decoding import (
    DECODER,
    DRAFT_DECODER,
    MAX_PIXELS,
    decode,
    format_and_size,
    quiet_pillow,
    read_file,
)
from featx.pictures.listing import LITTER, list_dataset, list_files
from featx.pictures.resizing import RESIZES, resize, square_on
from featx.pictures.views import Views, checked

__all__ = [
    "DECODER",
    "DRAFT_DECODER",
    "LITTER",
    "MAX_PIXELS",
    "RESIZES",
    "Listing",
    "Picture",
    "Views",
    "checked",
    "decode",
    "format_and_size",
    "list_dataset",
    "list_files",
    "printable",
    "quiet_pillow",
    "read_file",
    "resize",
    "square_on",
]
