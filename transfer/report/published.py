"""Numbers of published tables, drawn next to the user's own where data and protocol are the same.

Few of the rows were checked against their papers. Those of AlexNet's stages and of PASCAL VOC are written down from
memory, as later papers cite them, and the report notes this. Rows of one number are the best stages in VISSL's list
of models.
"""

import math
import re
from typing import NamedTuple

from transfer.bootstrap import MetricName
from transfer.results import Result

STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
"""The stages of AlexNet, which rows of five numbers are about."""

_BOTH = ("zhang2016", "splitbrain")
_CITED = "as cited in Zhang et al. 2017 (Split-Brain Autoencoders) and later"
_MAXIMA = "max pooling and a solver of its own"
_UNSURE = "how its features were pooled was not checked"
_VISSL = "VISSL's model zoo"


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


def _row(name: str, percent: str, source: str, protocols: tuple[str, ...] = _BOTH, remark: str = "") -> Published:
    return Published(name, tuple(float(number) / 100 for number in percent.split()), protocols, source, remark=remark)


def _best(name: str, percent: float) -> Published:
    return Published(name, (percent / 100,), ("goyal2019",), _VISSL, verified=True, remark="the best stage only")


_SPLIT = ("splitbrain",)

_SAME = "as cited in Zhang et al. 2016 and later"
_VOC = (  # classification: fc8, fc6 to fc8, all; detection; segmentation
    ("ImageNet labels", "76.8 78.9 79.9 56.8 48.0", f"Krizhevsky et al. 2012, {_SAME}", "", None),
    ("random (Gaussian)", "- - 53.3 43.4 19.8", _SAME[0].upper() + _SAME[1:], "not rescaled", None),
    ("autoencoder", "24.8 16.0 53.8 41.9 25.2", _SAME[0].upper() + _SAME[1:], "", None),
    ("k-means, rescaled", "32.0 39.2 56.6 45.6 32.6", f"Kraehenbuehl et al. 2016, {_SAME}", "", None),
    ("egomotion", "31.2 31.0 54.2 43.9 -", f"Agrawal et al. 2015, {_SAME}", "", None),
    ("tracking", "- 55.6 63.1 47.4 -", f"Wang and Gupta 2015, {_SAME}", "", None),
    ("context", "44.7 55.1 65.3 51.1 -", f"Doersch et al. 2015, {_SAME}", "rescaled", None),
    ("context encoder", "- 34.6 56.5 44.5 29.7", f"Pathak et al. 2016, {_SAME}", "", None),
    (
        *("BiGAN", "38.2 50.2 58.6 46.2 34.9", f"Donahue et al. 2017, {_SAME}"),
        *("later tables have 60.1 for all, 46.9 in detection, 35.2 in segmentation", None),
    ),
    ("colorization, gray", "52.4 61.5 65.9 46.1 35.0", "Zhang et al. 2016, as cited in later tables", "", False),
    ("colorization, color", "52.4 61.5 65.6 46.9 35.6", "Zhang et al. 2016, as cited in later tables", "", True),
)
_TEST_IMAGES = "the released code evaluates on 736 images of VOC2011, the publication says VOC2012"


def _voc(columns: slice, protocol: str, further: str = "") -> tuple[Published, ...]:
    """Return the rows of one task; ``further`` is a remark on all of them."""
    rows = []
    for name, percent, source, remark, color in _VOC:
        scores = tuple(math.nan if text == "-" else float(text) / 100 for text in percent.split()[columns])
        remarks = "; ".join(filter(None, (remark, further)))
        rows.append(Published(name, scores, (protocol,), source, remark=remarks, color=color))
    return tuple(row for row in rows if not all(map(math.isnan, row.scores)))


TABLES: tuple[PublishedTable, ...] = (
    PublishedTable(
        "ImageNet",
        50_000,
        1_000,
        (
            _row("ImageNet labels", "19.3 36.3 44.2 48.3 50.5", f"Krizhevsky et al. 2012, {_CITED}"),
            _row("random (Gaussian)", "11.6 17.1 16.9 16.3 14.1", f"Zhang et al. 2016, {_CITED}"),
            _row("k-means, rescaled", "17.5 23.0 24.5 23.2 20.6", f"Kraehenbuehl et al. 2016, {_CITED}"),
            _row("context", "16.2 23.3 30.2 31.7 29.6", f"Doersch et al. 2015, {_CITED}"),
            _row("context encoder", "14.1 20.7 21.0 19.8 15.5", f"Pathak et al. 2016, {_CITED}"),
            _row("BiGAN", "17.7 24.5 31.0 29.9 28.0", f"Donahue et al. 2017, {_CITED}"),
            _row("colorization", "12.5 24.5 30.4 31.5 30.3", f"Zhang et al. 2016, {_CITED}"),
            _row("L to ab, classes", "12.5 25.4 32.4 33.1 32.0", "Zhang et al. 2017, as cited from memory", _SPLIT),
            _row("Split-Brain", "17.7 29.3 35.4 35.2 32.8", "Zhang et al. 2017, as cited in later tables", _SPLIT),
            _row(
                "jigsaw",
                "18.2 28.8 34.0 33.9 27.1",
                "Noroozi and Favaro 2016, as cited in later tables",
                _SPLIT,
                f"{_UNSURE}; its conv1 has stride 2",
            ),
            _row(
                "counting",
                "18.0 30.6 34.3 32.5 25.7",
                "Noroozi et al. 2017, as cited in later tables",
                _SPLIT,
                _UNSURE,
            ),
            _row(
                "RotNet", "18.8 31.7 38.7 38.2 36.5", "Gidaris et al. 2018, as cited in later tables", _SPLIT, _MAXIMA
            ),
            _best("ImageNet labels", 49.54),
            _best("RotNet", 39.51),
            _best("DeepCluster", 37.88),
            _best("jigsaw", 34.82),
            _best("colorization", 30.39),
        ),
    ),
    PublishedTable(
        "Places205",
        20_500,
        205,
        (
            _row("Places labels", "22.1 35.1 40.2 43.3 44.6", f"Zhou et al. 2014, {_CITED}", _SPLIT),
            _row("ImageNet labels", "22.7 34.8 38.4 39.4 38.7", f"Krizhevsky et al. 2012, {_CITED}", _SPLIT),
            _row("random (Gaussian)", "15.7 20.3 19.8 19.1 17.5", _CITED[0].upper() + _CITED[1:], _SPLIT),
            _row("k-means, rescaled", "21.4 26.2 27.1 26.1 24.0", f"Kraehenbuehl et al. 2016, {_CITED}", _SPLIT),
            _row("context", "19.7 26.7 31.9 32.7 30.9", f"Doersch et al. 2015, {_CITED}", _SPLIT),
            _row("context encoder", "18.2 23.2 23.4 21.9 18.4", f"Pathak et al. 2016, {_CITED}", _SPLIT),
            _row("BiGAN", "22.0 28.7 31.8 31.3 29.7", f"Donahue et al. 2017, {_CITED}", _SPLIT),
            _row("colorization", "16.0 25.7 29.6 30.3 29.7", f"Zhang et al. 2016, {_CITED}", _SPLIT),
            _row("Split-Brain", "21.3 30.7 34.0 34.1 32.5", "Zhang et al. 2017, as cited in later tables", _SPLIT),
            _row(
                "jigsaw",
                "23.0 31.9 35.0 34.2 29.3",
                "Noroozi and Favaro 2016, as cited in later tables",
                _SPLIT,
                f"{_UNSURE}; its conv1 has stride 2",
            ),
            _row(
                "RotNet", "21.5 31.0 35.1 34.6 33.7", "Gidaris et al. 2018, as cited in later tables", _SPLIT, _MAXIMA
            ),
        ),
    ),
    PublishedTable(
        *("VOC2007", 4_952, 20, _voc(slice(0, 3), "paper-classify")),
        stages=("above fc7", "above pool5", "all"),
        metric="mAP",
        train="voc:2007:trainval",
        steps=80_000,
    ),
    PublishedTable(
        *("VOC2007, by 11 points", 4_952, 20, _voc(slice(3, 4), "paper-detect")),
        stages=("all",),
        metric="AP",
        train="voc:2007:trainval",
        steps=150_000,
    ),
    PublishedTable(
        *("VOC2012", 1_449, 21, _voc(slice(4, 5), "paper-segment", _TEST_IMAGES)),
        stages=("all",),
        metric="mIoU",
        train="voc:2012:train",
        n_train=10_582,  # with SBD's masks
        steps=150_000,
    ),
)
"""The published tables, one for each data set."""
