"""Reading and writing of photographs: pixels of 8 or 16 bits, profiles and metadata."""

from pretint.colorization.photographs.read import Photograph, open_photograph
from pretint.colorization.photographs.write import FORMATS, Format, is_signed, write_photograph

__all__ = ["FORMATS", "Format", "Photograph", "is_signed", "open_photograph", "write_photograph"]
