"""Judge: what a frozen backbone is worth.

What is named here is the public interface; the rest may change between versions.
"""

from transfer.intervals import accuracy, difference
from transfer.probing import ProbeSettings, Protocol, probe
from transfer.report import write_report

__all__ = ["ProbeSettings", "Protocol", "accuracy", "difference", "probe", "write_report"]
