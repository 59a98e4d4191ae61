"""Color as a product: photographs in, color out; what the color is worth; pages to make it on and to judge it.

The public interface is what ``__init__.pyi`` lists; the rest may change between versions. Its names are imported when
they are asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
