"""DICOM images against what was written; no value of a file is in an error."""

import io
import sys
import warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from plane_files import (
    CONTIG,
    FEW,
    GRAY,
    HEIGHT,
    HWC,
    RGB,
    WIDTH,
    dicom,
    expect_error,
    expect_planes,
    noise,
    peak_memory,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pretext.data.planes import read_planes
from pretext.errors import ImageError


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
def test_dicom(syntax: str, dtype: str) -> None:
    image = noise(HEIGHT, WIDTH, dtype=dtype)
    want = image.astype({"int16": "f4", "uint32": "f4"}.get(dtype, dtype))
    expect_planes(dicom(image, syntax), want[..., None], GRAY)
    scaled = (image.astype(np.float64) * 0.5 - 1024).astype(np.float32)
    expect_planes(dicom(image, syntax, RescaleSlope=0.5, RescaleIntercept=-1024), scaled[..., None], GRAY)
    same = image if dtype in ("uint8", "uint16") else image.astype(np.float32)  # this rescale changes nothing
    expect_planes(dicom(image, syntax, RescaleSlope=1, RescaleIntercept=0), same[..., None], GRAY)


def test_dicom_rgb() -> None:
    image = (CONTIG >> 8).astype(np.uint8)
    expect_planes(dicom(image), image, RGB)
    planar = np.moveaxis(image, -1, 0).tobytes()
    expect_planes(dicom(image, PlanarConfiguration=1, PixelData=planar), image, RGB)
    expect_error(dicom(image), GRAY, "has 3 channels (shape (21, 34, 3))")


def test_dicom_monochrome1_is_inverted_within_the_stored_bits() -> None:
    image = noise(HEIGHT, WIDTH) >> 4
    options = {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}
    expect_planes(dicom(image, **options), 4095 - image[..., None], GRAY)
    signed = noise(HEIGHT, WIDTH, dtype="int16") >> 4
    expect_planes(dicom(signed, **options), (-1 - signed[..., None]).astype(np.float32), GRAY)
    # The range of the rescaled values is that of the stored bits, so after the rescale the inverse is low + high - v.
    scaled = image * 2.0 - 1000
    low, high = -1000.0, 4095 * 2.0 - 1000
    want = (low + high - scaled).astype(np.float32)[..., None]
    expect_planes(dicom(image, **options, RescaleSlope=2, RescaleIntercept=-1000), want, GRAY)


def test_dicom_bits_that_are_not_stored_are_left_out() -> None:
    image = noise(HEIGHT, WIDTH)  # an overlay, say, in the upper 4 bits
    expect_planes(dicom(image, BitsStored=12), (image & 4095)[..., None], GRAY)
    low = (image & 4095).astype(np.int16)
    want = np.where(low > 2047, low - 4096, low).astype(np.float32)[..., None]
    expect_planes(dicom(image.view(np.int16), BitsStored=12), want, GRAY)


BAD_DICOM: dict[str, tuple[dict[str, Any], str]] = {
    "frames": ({"NumberOfFrames": 7}, "a DICOM file of 7 frames"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "neither gray nor RGB"),
    "name": ({"PhotometricInterpretation": "SECRET"}, "neither gray nor RGB"),
    "bits": ({"BitsAllocated": 12, "BitsStored": 12}, "12 bits in 12"),
    "more bits": ({"BitsStored": 17}, "17 bits in 16"),
    "short": ({"PixelData": bytes(40)}, "truncated: shape (21, 34) of uint16 is 1428 bytes; the file has 40"),
    "rows": ({"Rows": 60_000, "Columns": 60_000}, "too large"),
    "no rows": ({"Rows": 0}, "no pixels: shape (0, 34)"),
    "two samples": ({"SamplesPerPixel": 2}, "has 2 channels"),
}


@pytest.mark.parametrize("case", BAD_DICOM)
def test_bad_dicom(case: str) -> None:
    elements, reason = BAD_DICOM[case]
    data = dicom(HWC[..., 0], **elements)
    assert "SECRET" not in expect_error(data, GRAY, reason).upper()
    assert peak_memory(lambda: expect_error(data, GRAY, reason)) < FEW


@pytest.mark.parametrize("missing", ["Rows", "PixelData", "BitsStored", "PhotometricInterpretation"])
def test_dicom_without_an_element(missing: str) -> None:
    file = pydicom.dcmread(io.BytesIO(dicom(HWC[..., 0])))
    delattr(file, missing)
    out = io.BytesIO()
    file.save_as(out)
    expect_error(out.getvalue(), GRAY, "DICOM file w")  # without PixelData, or whose pixels cannot be read


def test_compressed_dicom() -> None:
    data = dicom(HWC[..., 0])
    syntax = ExplicitVRLittleEndian.encode()
    expect_error(
        dicom(HWC[..., 0], DeflatedExplicitVRLittleEndian), GRAY, "compressed DICOM file: Deflated Explicit VR"
    )
    unknown = data.replace(syntax, b"SECRET^NAME 56707890"[: len(syntax)])
    assert unknown != data
    assert "SECRET" not in expect_error(unknown, GRAY, "compressed DICOM file: in an unknown way")


def test_no_patient_is_in_an_error() -> None:
    """Elements of the wrong type make pydicom quote them."""
    file = pydicom.dcmread(io.BytesIO(dicom(HWC[..., 0])))
    for name, kind in (("Rows", "PN"), ("RescaleSlope", "LO"), ("NumberOfFrames", "PN"), ("BitsStored", "LO")):
        file[name] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(name), kind, "Secret^Name")
        out = io.BytesIO()
        with warnings.catch_warnings(action="ignore"):
            file.save_as(out)
        with pytest.raises(ImageError) as caught:
            read_planes(out.getvalue(), "k", GRAY)
        assert "ecret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        file = pydicom.dcmread(io.BytesIO(dicom(HWC[..., 0])))


def test_dicom_without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    expect_error(dicom(HWC[..., 0]), GRAY, "a DICOM file needs pydicom: pip install 'pretint[dicom]'")
