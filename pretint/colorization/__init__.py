"""Coloring of photographs: read them, color them, write them, and score the colors.

``__init__.pyi`` lists the public interface; the rest may change between versions. Names are imported when they are
used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
