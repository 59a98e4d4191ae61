"""Studies: variants of a pretraining, evaluations and seeds in one file, and one table of results.

What is named in ``__init__.pyi`` is the public interface; the rest may change between versions.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
