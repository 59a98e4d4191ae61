"""Reading of DICOM files: one uncompressed image, gray or RGB.

Values are those of the modality: rescale slope and intercept are applied (a lookup table is not). MONOCHROME1 is
inverted within the range of the stored bits. By the standard that comes after the rescale; the result is the same.

Only the elements that describe the pixels are read: none about a patient.
"""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError

DICOM_HINT = "pip install 'pretint[dicom]'"

_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")  # transfer syntaxes
_ELEMENTS = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelData",
)  # fmt: skip


def is_dicom(data: bytes) -> bool:
    """Whether a file, of which ``data`` has at least the first 132 bytes, is in DICOM format."""
    return data[128:132] == b"DICM"


class DicomImage:
    """An image in a DICOM file, of which the header is read, but not yet the pixels.

    Attributes:
        shape: (H, W) or (H, W, 3).
        dtype: the type of the values as stored.
        available: the number of bytes that the file has for the pixels.

    Raises:
        UserError: the image cannot be read, or pydicom is missing.
        Exception: the file is damaged; many types are possible. The messages may quote values of the file.
    """

    def __init__(self, data: bytes) -> None:
        try:
            import pydicom
        except ImportError:
            raise UserError(f"a DICOM file needs pydicom: {DICOM_HINT}") from None
        start = BytesIO(data)
        start.seek(132)
        # The first group alone, because pydicom inflates all others of a deflated file without a limit.
        meta = pydicom.filereader.read_dataset(start, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        syntax = meta.get("TransferSyntaxUID", "")
        if syntax not in _UNCOMPRESSED:
            name = syntax.name if syntax in pydicom.uid.UID_dictionary else "in an unknown way, or it is damaged"
            raise UserError(f"a compressed DICOM file: {name}; decompress it, with gdcmconv --raw for example")
        elements = pydicom.dcmread(BytesIO(data), specific_tags=list(_ELEMENTS))
        if "PixelData" not in elements:
            raise UserError("a DICOM file without PixelData: truncated, or no image of integers")
        if (frames := int(elements.get("NumberOfFrames") or 1)) > 1:
            raise UserError(f"a DICOM file of {frames} frames; save each as a file of its own")
        if elements.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2", "RGB"):
            raise UserError("a DICOM file whose colors are neither gray nor RGB; convert it")
        self._elements = elements
        self._allocated, self._stored = int(elements.BitsAllocated), int(elements.BitsStored)
        self._high = int(elements.get("HighBit", self._stored - 1))
        if self._allocated not in (8, 16, 32) or not 0 < self._stored <= self._high + 1 <= self._allocated:
            raise UserError(f"a DICOM file of {self._stored} bits in {self._allocated}, which cannot be read")
        self._is_signed = bool(elements.PixelRepresentation)
        samples = int(elements.SamplesPerPixel)
        self.shape = (int(elements.Rows), int(elements.Columns), samples)[: 2 if samples == 1 else 3]
        self.dtype = np.dtype(f"{'i' if self._is_signed else 'u'}{self._allocated // 8}")
        self.available = len(elements.PixelData)

    def load(self) -> NDArray[Any]:
        """Return the pixels, of the shape: as stored, or float64 if a rescale changes them."""
        elements = self._elements
        pixels: NDArray[Any] = elements.pixel_array
        pixels = pixels << (self._allocated - 1 - self._high) >> (self._allocated - self._stored)  # without overlays
        if elements.PhotometricInterpretation == "MONOCHROME1":
            pixels = ~pixels if self._is_signed else pixels ^ (2**self._stored - 1)
        slope, intercept = float(elements.get("RescaleSlope") or 1), float(elements.get("RescaleIntercept") or 0)
        if (slope, intercept) != (1, 0):
            pixels = pixels * slope + intercept
        return pixels
