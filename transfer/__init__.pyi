from .intervals import accuracy, difference
from .probing import ProbeSettings, probe
from .report import write_report

__all__ = ["ProbeSettings", "accuracy", "difference", "probe", "write_report"]
