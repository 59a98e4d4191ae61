"""The tasks by name, and how a task is opened from its settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pretext.errors import UserError
from pretext.plugins import Registry
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
    """A task as the command line knows it."""

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
"""The tasks by name; plugins add others."""


def open_task(settings: FinetuneSettings) -> Task:
    """Return the task of some settings.

    Raises:
        UserError: its images or annotations cannot be read; or two tasks share one class of settings.
    """
    require_sources(settings)
    kinds = {name: kind for name, kind in TASKS.items() if type(settings) is kind.settings}
    if len(kinds) > 1:
        raise UserError(f"tasks {' and '.join(kinds)} have the same settings; give each a class of its own")
    (kind,) = kinds.values()
    return kind.open(settings)


def require_sources(settings: FinetuneSettings) -> None:
    """Refuse settings without images.

    Raises:
        UserError: there are no training images, or no test images.
    """
    if not settings.train or not settings.test:
        raise UserError("give images to learn from and to test on: --train voc:2007:trainval:FOLDER --test ...")
