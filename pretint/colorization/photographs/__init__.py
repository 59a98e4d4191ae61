"""Reading and writing of photographs: pixels of 8 or 16 bits, profiles and metadata."""

from pretint.colorization.photographs.read import Photograph, open_photograph
from pretint.colorization.photographs.write import FORMATS, Format, signed, write_photograph

__all__ = ["FORMATS", "Format", "Photograph", "open_photograph", "signed", "write_photograph"]
