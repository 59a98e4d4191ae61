"""Learn image features from unlabeled images by colorization (Zhang, Isola, Efros, ECCV 2016).

The public interface is what ``__init__.pyi`` lists; the rest may change between versions. Its names
are imported when they are asked for: torch and timm take seconds, and ``--help`` needs neither.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
