"""Judge: what a frozen backbone is worth.

What is named here is the public interface; the rest may change between versions.
"""

from transfer.intervals import accuracy, difference

__all__ = ["accuracy", "difference"]
