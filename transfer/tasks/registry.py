"""The tasks by name, and how a task is opened from its settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pretext.errors import UserError
from pretext.plugins import Registry
from transfer.tasks.classification import ClassificationTask, ClassifySettings
from transfer.tasks.detection import DetectionTask, DetectSettings
from transfer.tasks.segmentation import SegmentationTask, SegmentSettings
from transfer.tasks.task import FinetuneSettings, Task

__all__ = [
    "TASKS",
    "ClassifySettings",
    "DetectSettings",
    "FinetuneSettings",
    "SegmentSettings",
    "Task",
    "TaskKind",
    "open_task",
]


class TaskKind(NamedTuple):
    """A task of the command line."""

    settings: type[FinetuneSettings]
    open: Callable[[Any], Task]
    about: str


TASKS = Registry(
    "task",
    {
        "classify": TaskKind(ClassifySettings, ClassificationTask, "Learn which classes an image shows."),
        "detect": TaskKind(DetectSettings, DetectionTask, "Learn where in an image the objects of some classes are."),
        "segment": TaskKind(SegmentSettings, SegmentationTask, "Learn which class every pixel belongs to."),
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
        raise UserError(f"tasks {' and '.join(kinds)} share one class of settings; give each its own class")
    (kind,) = kinds.values()
    return kind.open(settings)


def require_sources(settings: FinetuneSettings) -> None:
    """Refuse settings without images.

    Raises:
        UserError: there are no training images, or no test images.
    """
    if not settings.train or not settings.test:
        raise UserError("give images to learn from and to test on: --train voc:2007:trainval:FOLDER --test ...")
