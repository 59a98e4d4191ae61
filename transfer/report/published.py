"""Numbers of published tables, drawn next to the user's own where data and protocol are the same.

Few of the rows were checked against their papers. Those of AlexNet's stages and of PASCAL VOC are written down from
memory, as later papers cite them, and the report notes this. Rows of one number are the best stages in VISSL's list
of models.
"""

import csv
import math
import re
from pathlib import Path
from typing import NamedTuple

from transfer.bootstrap import MetricName
from transfer.results import Result

STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
"""The stages of AlexNet, which rows of five numbers are about."""


class Published(NamedTuple):
    """One row of a published table."""

    name: str
    scores: tuple[float, ...]
    """In [0, 1]: one for each of the table's stages, NaN where none was published; or one number, of the best stage."""
    protocols: tuple[str, ...]
    """Our protocols that it may stand next to."""
    source: str
    verified: bool = False
    """Whether it was checked in the publication itself."""
    remark: str = ""
    """Its differences from these protocols."""
    color: bool | None = None
    """For a row that exists in gray and in color: whether the network saw color."""


class PublishedTable(NamedTuple):
    """A published table: the rows of one data set."""

    data: str
    n_test: int
    classes: int
    rows: tuple[Published, ...]
    stages: tuple[str, ...] = STAGES
    """The stages of a row's numbers; for fine-tuning the trained part, by its name in our results."""
    metric: MetricName = "top-1"
    train: str = ""
    """For fine-tuning: the part of VOC that is trained on."""
    n_train: int = 0
    """For fine-tuning: the number of training images; 0 if that part determines it."""
    steps: int = 0
    """For fine-tuning: the number of steps, because a shortened recipe keeps its name."""


def published(result: Result, *others: Result) -> PublishedTable | None:
    """Return the published rows that may stand next to a result; None if there are none.

    The data are recognized by the number of test images and of classes, and for fine-tuning by the training part of
    VOC; the network by its backbone and stages. For frozen networks a table has all stages, which are drawn as
    lines; for fine-tuned ones only what was trained.

    Args:
        result: one result of an evaluation.
        others: more results of it: fine-tuned networks may differ in what was trained.
    """
    if result.fraction != 1 or result.network.backbone != "alexnet":
        return None
    tuned = result.mode == "fine-tuned"
    for table in TABLES:
        if (result.metric, result.n_test, len(result.classes)) != (table.metric, table.n_test, table.classes):
            continue
        if tuned != bool(table.train):
            continue
        if tuned and (
            re.findall(r"voc:\d+:\w+", result.train) != [table.train]
            or table.n_train not in (0, result.n_train)
            or result.settings.get("training", {}).get("steps") != table.steps
        ):
            continue
        color = bool(result.settings.get("color"))
        rows = [row for row in table.rows if result.protocol in row.protocols and row.color in (None, color)]
        stages = {row.stage for shown in (result, *others) for row in shown.rows}
        if not tuned:
            return table._replace(rows=tuple(rows)) if rows and stages >= set(table.stages) else None
        places = [at for at, stage in enumerate(table.stages) if stage in stages]
        rows = [row._replace(scores=tuple(row.scores[at] for at in places)) for row in rows]
        rows = [row for row in rows if not all(map(math.isnan, row.scores))]
        return table._replace(rows=tuple(rows), stages=tuple(table.stages[at] for at in places)) if rows else None
    return None


def _rows(table: str, columns: slice | None = None, protocol: str = "", remark: str = "") -> tuple[Published, ...]:
    """Return the rows of a table of ``published.csv``.

    Args:
        table: its name there.
        columns: the numbers that count; None means all.
        protocol: our protocol that the rows may stand next to, if the file names none.
        remark: a remark on all rows.
    """
    rows = []
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            percent = line["percent"].split()[columns or slice(None)]
            if line["table"] == table and set(percent) != {"-"}:
                row = Published(
                    name=line["name"],
                    scores=tuple(math.nan if text == "-" else float(text) / 100 for text in percent),
                    protocols=tuple((line["protocols"] or protocol).split()),
                    source=line["source"],
                    verified=line["verified"] == "yes",
                    remark="; ".join(filter(None, (line["remark"], remark))),
                    color={"gray": False, "color": True}.get(line["sees"]),
                )
                rows.append(row)
    return tuple(rows)


_TEST_IMAGES = "the released code evaluates on 736 images of VOC2011, the publication says VOC2012"
_TRAINED = ("above fc7", "above pool5", "all")

TABLES: tuple[PublishedTable, ...] = (
    PublishedTable("ImageNet", 50_000, 1_000, _rows("ImageNet")),
    PublishedTable("Places205", 20_500, 205, _rows("Places205")),
    PublishedTable(
        *("VOC2007", 4_952, 20, _rows("VOC", slice(0, 3), "paper-classify"), _TRAINED, "mAP"),
        train="voc:2007:trainval",
        steps=80_000,
    ),
    PublishedTable(
        *("VOC2007, by 11 points", 4_952, 20, _rows("VOC", slice(3, 4), "paper-detect"), ("all",), "AP"),
        train="voc:2007:trainval",
        steps=150_000,
    ),
    PublishedTable(
        *("VOC2012", 1_449, 21, _rows("VOC", slice(4, 5), "paper-segment", _TEST_IMAGES), ("all",), "mIoU"),
        train="voc:2012:train",
        n_train=10_582,  # with SBD's masks
        steps=150_000,
    ),
)
"""The published tables, one for each data set. The file has one row for all tasks of VOC: classification with fc8, with
fc6 to fc8 and with all trained; detection; segmentation."""
