"""Numbers of published tables, to draw beside one's own where data and protocol are theirs.

None of the rows of five numbers was checked against its paper: they are written down from memory, as later
papers cite them, and a report says so. Those of one number are the best stages of VISSL's list of models.
"""

from typing import NamedTuple

from transfer.results import Result

STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
"""Of AlexNet: what the rows of five numbers are of."""

_BOTH = ("zhang2016", "splitbrain")
_CITED = "as cited in Zhang et al. 2017 (Split-Brain Autoencoders) and later"
_MAXIMA = "max pooling and a solver of its own"
_UNSURE = "how its features were pooled was not checked"
_VISSL = "VISSL's model zoo"


class Published(NamedTuple):
    """One row of a published table."""

    name: str
    scores: tuple[float, ...]
    """Top-1 accuracy in [0, 1] at ``STAGES``, or one: of the best stage, whichever that is."""
    protocols: tuple[str, ...]
    """Those of ours that it may stand beside."""
    source: str
    verified: bool = False
    """Whether it was read where it was published."""
    remark: str = ""
    """Where it departs from these protocols."""


class PublishedTable(NamedTuple):
    """Rows of one data set."""

    data: str
    n_test: int
    classes: int
    rows: tuple[Published, ...]


def published(result: Result) -> PublishedTable | None:
    """The published rows that a result may stand beside; None where there are none.

    The data are told by the number of test pictures and of classes, the network by its backbone and stages.
    """
    stages = {row.stage for row in result.rows}
    if result.metric != "top-1" or result.fraction != 1 or result.network.backbone != "alexnet":
        return None
    for table in TABLES:
        if (result.n_test, len(result.classes)) == (table.n_test, table.classes) and stages >= set(STAGES):
            rows = tuple(row for row in table.rows if result.protocol in row.protocols)
            return table._replace(rows=rows) if rows else None
    return None


def _row(name: str, percent: str, source: str, protocols: tuple[str, ...] = _BOTH, remark: str = "") -> Published:
    return Published(name, tuple(float(one) / 100 for one in percent.split()), protocols, source, remark=remark)


def _best(name: str, percent: float) -> Published:
    return Published(name, (percent / 100,), ("goyal2019",), _VISSL, verified=True, remark="the best stage only")


_SPLIT = ("splitbrain",)

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
)
"""By data set."""
