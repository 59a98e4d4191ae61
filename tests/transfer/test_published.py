"""The published rows, and beside which results they are shown."""

from dataclasses import replace

import pytest

from tests.judging import answers, result, row
from transfer.published import STAGES, TABLES, published
from transfer.results import Result


def of(n_test: int, classes: int, protocol: str, stages: tuple[str, ...] = (*STAGES, "fc6")) -> Result:
    """A result of so many test pictures and classes."""
    rows = [row(stage, answers(0.3, 0, n_test)) for stage in stages]
    return result(rows=rows, classes=tuple(map(str, range(classes))), protocol=protocol)


def test_rows_are_whole_and_have_a_source() -> None:
    for table in TABLES:
        assert len({(one.name, one.protocols) for one in table.rows}) == len(table.rows)
        for one in table.rows:
            assert len(one.scores) in (1, len(STAGES)) and all(0.1 < score < 0.6 for score in one.scores)
            assert one.source and set(one.protocols) <= {"zhang2016", "splitbrain", "goyal2019"} and one.protocols
            assert one.verified == (len(one.scores) == 1), "rows of every stage are from memory"


@pytest.mark.parametrize(
    ("n_test", "classes", "protocol", "data", "shown", "hidden"),
    [
        (50_000, 1000, "zhang2016", "ImageNet", "context encoder", "Split-Brain"),
        (50_000, 1000, "splitbrain", "ImageNet", "Split-Brain", "DeepCluster"),
        (50_000, 1000, "goyal2019", "ImageNet", "DeepCluster", "Split-Brain"),
        (20_500, 205, "splitbrain", "Places205", "Places labels", "L to ab, classes"),
    ],
)
def test_data_and_protocol_choose_the_rows(
    n_test: int, classes: int, protocol: str, data: str, shown: str, hidden: str
) -> None:
    table = published(of(n_test, classes, protocol))
    assert table is not None and table.data == data
    names = [one.name for one in table.rows]
    assert shown in names and hidden not in names and "colorization" in names


def test_the_paper_s_row() -> None:
    table = published(of(50_000, 1000, "zhang2016"))
    assert table is not None
    (row,) = (one for one in table.rows if one.name == "colorization")
    assert row.scores == (0.125, 0.245, 0.304, 0.315, 0.303)


@pytest.mark.parametrize(
    ("n_test", "classes", "protocol"),
    [(49_999, 1000, "zhang2016"), (50_000, 999, "zhang2016"), (50_000, 1000, "modern"), (20_500, 205, "zhang2016")],
)
def test_other_data_and_protocols_have_none(n_test: int, classes: int, protocol: str) -> None:
    assert published(of(n_test, classes, protocol)) is None


def test_other_networks_and_few_labels_have_none() -> None:
    whole = of(50_000, 1000, "zhang2016")
    assert published(replace(whole, fraction=0.1)) is None
    assert published(replace(whole, network=replace(whole.network, backbone="siggraph"))) is None
    assert published(of(50_000, 1000, "zhang2016", STAGES[1:])) is None
