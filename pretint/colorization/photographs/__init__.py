"""Photographs as files: pixels of 8 or 16 bits, and all that belongs to them, read and written."""

from pretint.colorization.photographs.read import Photograph, open_photograph
from pretint.colorization.photographs.write import FORMATS, Format, signed, write_photograph

__all__ = ["FORMATS", "Format", "Photograph", "open_photograph", "signed", "write_photograph"]
