"""The tasks by name, and how settings become one."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pretext.errors import UserError
from pretext.registry import Registry
from transfer.tasks.classification import Classification, ClassifySettings
from transfer.tasks.detection import Detection, DetectSettings
from transfer.tasks.segmentation import Segmentation, SegmentSettings
from transfer.tasks.task import FinetuneSettings, Task

__all__ = [
    "TASKS",
    "ClassifySettings",
    "DetectSettings",
    "FinetuneSettings",
    "Kind",
    "SegmentSettings",
    "Task",
    "open_task",
]


class Kind(NamedTuple):
    """A task, as a user names it."""

    settings: type[FinetuneSettings]
    open: Callable[[Any], Task]
    about: str


TASKS = Registry(
    "task",
    {
        "classify": Kind(ClassifySettings, Classification, "Learn which classes an image shows."),
        "detect": Kind(DetectSettings, Detection, "Learn where in an image the objects of some classes are."),
        "segment": Kind(SegmentSettings, Segmentation, "Learn which class every pixel belongs to."),
    },
)
"""By name; plugins add others."""


def open_task(settings: FinetuneSettings) -> Task:
    """The task that settings are of.

    Raises:
        UserError: its images, or what must be known of them, cannot be had; or two tasks share their settings.
    """
    require_sources(settings)
    known = {name: kind for name, kind in TASKS.items() if type(settings) is kind.settings}
    if len(known) > 1:
        raise UserError(f"tasks {' and '.join(known)} have the same settings; give each a class of its own")
    (kind,) = known.values()
    return kind.open(settings)


def require_sources(settings: FinetuneSettings) -> None:
    """Refuse a fine-tuning without images.

    Raises:
        UserError: it has none to learn from, or none to test on.
    """
    if not settings.train or not settings.test:
        raise UserError("give images to learn from and to test on: --train voc:2007:trainval:FOLDER --test ...")
