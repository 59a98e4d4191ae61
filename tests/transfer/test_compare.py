"""Comparing: paired, tested, corrected; and finding out which results are meant."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import STAGES, answers, ranking, result, row, truth
from rich.console import Console

from pretext.errors import UserError
from transfer.bootstrap import difference, estimate_mean, holm, mcnemar, sign_flip_p_value, welch
from transfer.compare import CompareSettings, Comparison, compare, compare_paths, comparison_lines
from transfer.metrics import Top1Accuracy
from transfer.metrics.classification import mean_average_precision, swaps
from transfer.results import Result, write_result


def printed(comparison: Comparison) -> str:
    console = Console(width=40, file=io.StringIO())
    for line in comparison_lines(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def of(share: float, seed: int = 0, name: str = "b", **changed: Any) -> Result:
    rows = [row(stage, answers(share, 100 * seed + at), 0.1 * at) for at, stage in enumerate(STAGES)]
    return result(f"{name}{seed}", seed, rows, **changed)


def correct(one: Result, at: int) -> Any:
    return one.rows[at].outcomes[0].correct


def test_two_networks_row_by_row() -> None:
    first, second = of(0.5, 0, "a"), of(0.6, 1)
    (pair,) = compare([[first], [second]]).pairs
    assert [line.name for line in pair.lines] == list(STAGES) and pair.left_out == ()
    p_values = []
    for at, line in enumerate(pair.lines):
        one, two = correct(first, at), correct(second, at)
        assert line.first == first.rows[at].score and line.second == second.rows[at].score
        assert line.gap.difference == pytest.approx(difference(two, one)), "second minus first"
        assert line.gap.p == mcnemar(one, two) and line.gap.test == "McNemar, exact"
        assert line.gap.over_seeds is None
        p_values.append(line.gap.p)
    assert [line.adjusted for line in pair.lines] == holm(p_values)
    assert [line.best for line in pair.lines] == [False, False, True], "both chose conv3: no test is counted twice"


def test_several_seeds() -> None:
    first, second = [of(0.5, seed, "a") for seed in range(3)], [of(0.58, seed) for seed in (5, 6)]
    (pair,) = compare([first, second]).pairs
    for at, line in enumerate(pair.lines):
        one, two = (np.mean([correct(each, at) for each in side], axis=0) for side in (first, second))
        assert line.gap.difference == pytest.approx(estimate_mean(two - one, lowest=-1), abs=1e-12)
        assert line.gap.p == pytest.approx(sign_flip_p_value(two - one))
        wanted = welch([correct(each, at).mean() for each in first], [correct(each, at).mean() for each in second])
        assert wanted is not None and line.gap.over_seeds == pytest.approx(wanted)
    text = printed(compare([first, second]))
    assert "sign flips of images" in text and "over seeds: Welch's" in text
    assert "A: a (pretrained alexnet, 3 seeds (0, 1, 2), step 1,000, cached)" in text


def test_more_networks_are_compared_with_the_first() -> None:
    made = [of(0.5, 0, "a"), of(0.55, 1, "b"), of(0.6, 2, "c")]
    comparison = compare([[one] for one in made])
    assert [(pair.first.label, pair.second.label) for pair in comparison.pairs] == [("a0", "b1"), ("a0", "c2")]
    lines = [line for pair in comparison.pairs for line in pair.lines]
    assert comparison.n_tests == 6
    assert [line.adjusted for line in lines] == holm([line.gap.p for line in lines]), "over all that is shown"
    text = printed(comparison)
    assert "B - A" in text and "C - A" in text and "corrected for 6 tests" in text
    for line in lines:
        value, low, high = (f"{100 * number:+.1f}" for number in line.gap.difference)
        assert f"{value} [{low}, {high}]" in text


def test_other_backbones_meet_in_their_best_rows() -> None:
    first = result("a", rows=[row("conv1", answers(0.5, 0), 0.2), row("conv2", answers(0.5, 1), 0.4)])
    second = result("b", rows=[row("stem", answers(0.6, 2), 0.9), row("layer1", answers(0.6, 3), 0.8)])
    (pair,) = compare([[first], [second]]).pairs
    (line,) = pair.lines
    assert (line.name, line.other, line.best) == ("conv2", "stem", True)
    assert line.gap.difference == difference(correct(second, 0), correct(first, 1))
    assert pair.left_out == ("conv1", "conv2", "stem", "layer1")
    text = printed(compare([[first], [second]]))
    assert "conv2 | stem *" in text and "only in A or in B: conv1, conv2, stem, layer1" in text
    assert "corrected for 1 test\n" in text
    blind = [
        result(one.network.name, rows=[replace(each, holdout=None) for each in one.rows]) for one in (first, second)
    ]
    with pytest.raises(UserError, match="no row in common"):
        compare([[one] for one in blind])


def test_best_against_best_is_a_test_more() -> None:
    first = result("a", rows=[row("conv1", answers(0.5, 0), 0.9), row("conv2", answers(0.5, 1), 0.4)])
    second = result("b", rows=[row("conv1", answers(0.6, 2), 0.2), row("conv2", answers(0.6, 3), 0.8)])
    (pair,) = compare([[first], [second]]).pairs
    assert [(line.name, line.other, line.best) for line in pair.lines] == [
        ("conv1", "conv1", False),
        ("conv2", "conv2", False),
        ("conv1", "conv2", True),
    ]


def test_mean_average_precision() -> None:
    known = truth()
    sides = [
        [ranking(strength, seed, known) for seed in seeds] for strength, seeds in ((0.5, (0, 1)), (1.0, (2, 3, 4)))
    ]
    first, second = (
        [result(f"{name}{seed}", seed, [row("conv1", one)]) for seed, one in enumerate(side)]
        for name, side in zip("ab", sides, strict=True)
    )
    (line,) = compare([first, second]).pairs[0].lines
    means = [np.mean([mean_average_precision(one.scores, known) for one in side]) for side in sides]  # type: ignore[arg-type]
    assert line.gap.difference.value == pytest.approx(means[1] - means[0])
    draws = np.mean([one.resampled for one in sides[1]], axis=0) - np.mean([one.resampled for one in sides[0]], axis=0)
    low, high = np.quantile(draws, (0.025, 0.975)) - draws.mean() + (means[1] - means[0])
    assert line.gap.difference[1:] == pytest.approx((low, high))
    pairs = [(sides[0][i % 2].scores, sides[1][i % 3].scores) for i in range(6)]
    assert line.gap.p == swaps(pairs, known)  # type: ignore[arg-type]
    assert line.gap.p < 0.05 and line.gap.test == "swaps of images" and line.gap.over_seeds is not None
    (alone,) = compare([first[:1], second[:1]]).pairs[0].lines
    assert alone.gap.test == "swaps of images" and alone.gap.p == swaps(
        [(sides[0][0].scores, sides[1][0].scores)], known
    )


def test_a_network_with_itself() -> None:
    (pair,) = compare([[of(0.5)], [of(0.5)]]).pairs
    for line in pair.lines:
        assert line.gap.difference.value == 0 and line.gap.p == line.adjusted == 1
        assert line.gap.difference.low < 0 < line.gap.difference.high


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mode": "augmented"}, "b1 is augmented, a0 is cached"),
        ({"protocol": "knn"}, "other protocol: knn"),
        ({"test_digest": "e" * 64}, "other test data"),
        ({"train_digest": "e" * 64}, "other training data"),
        ({"skipped": ()}, "other unreadable images"),
    ],
)
def test_what_is_not_compared(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compare([[of(0.5, 0, "a")], [of(0.6, 1, **changed)]])


def test_modes_are_compared_when_asked() -> None:
    (pair,) = compare([[of(0.5, 0)], [of(0.6, 0, mode="augmented")]], across_modes=True).pairs
    assert "cached)" in printed(Comparison((pair,))) and "augmented)" in printed(Comparison((pair,)))


def test_a_group_is_one_network() -> None:
    with pytest.raises(UserError, match=r"expected one network in one mode, but there are 2: a0 .*; c2"):
        compare([[of(0.5, 0, "a"), of(0.5, 2, "c")], [of(0.6, 1)]])
    with pytest.raises(UserError, match="a group has no results"):
        compare([[of(0.5)], []])
    with pytest.raises(UserError, match="one network alone"):
        compare([[of(0.5)]])


def saved(folder: Path, *results: Result) -> list[Path]:
    taken = len(list((folder / "results").glob("*.json")))
    paths = [
        folder / "results" / f"{one.protocol}.{one.mode}.{one.network.name}.{taken + at}.json"
        for at, one in enumerate(results)
    ]
    for path, one in zip(paths, results, strict=True):
        write_result(path, one)
    return paths


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Runs of two recipes at two seeds each, with their random references."""
    for name, share in (("plain", 0.5), ("color", 0.6)):
        for seed in range(2):
            own = [of(share, seed, name), of(share + 0.02, seed, name, mode="augmented"), of(0.2, seed, name, step=5)]
            saved(tmp_path / f"{name}-{seed}", *own, of(0.3, seed, "random", kind="random"))
    return tmp_path


def test_words_of_the_command_line(runs: Path) -> None:
    one, two = f"{runs}/plain-0", f"{runs}/color-0"

    def found(*words: str, **settings: Any) -> list[tuple[str, int, str]]:
        comparison = compare_paths(words, CompareSettings(**settings))
        every = [comparison.pairs[0].first, *(pair.second for pair in comparison.pairs)]
        return [(column.label, len(column.results), column.first.mode) for column in every]

    assert found(one, two) == [("plain0", 1, "augmented"), ("color0", 1, "augmented")], "step 5 is over"
    assert found(one, two, mode="cached")[0] == ("plain0", 1, "cached")
    assert found(f"random:{one}", one, two) == [
        ("random0", 1, "cached"),
        ("plain0", 1, "cached"),
        ("color0", 1, "cached"),
    ]
    assert found(f"{one},{runs}/plain-1", f"{runs}/color-*") == [("plain", 2, "augmented"), ("color", 2, "augmented")]
    assert found(f"random:{runs}", f"pretrained:{runs}/color-[01]")[0] == ("random", 2, "cached")
    file = next((runs / "plain-0" / "results").glob("modern.cached.*random*"))
    assert found(str(file), two)[0] == ("random0", 1, "cached")
    augmented = next((runs / "plain-0" / "results").glob("modern.augmented.*plain0*"))
    assert found(str(file), str(augmented), mode="any") == [("random0", 1, "cached"), ("plain0", 1, "augmented")]


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["{}/plain-0"], {}, "one network alone"),
        (["{}/plain-0", "{}/gone"], {}, "gone: does not exist"),
        (["{}/plain-0", "{}/gone*"], {}, r"gone\*: no folder"),
        (["{}/plain-0", "{}"], {}, "expected one network in one mode, but there are 2"),
        (["{}/plain-0", "supervised:{}/plain-1"], {}, "no result of a supervised network"),
        (["{}/plain-0", "{}/plain-1"], {"protocol": "knn"}, "no result with protocol knn; there is modern"),
        (["{}/plain-0", "{}/plain-1"], {"test": "x"}, "no result with test x; there is photos/test"),
        (["{}/plain-0", "{}/plain-1"], {"fraction": 0.1}, "no result with fraction 0.1; there is 1.0"),
        (["{}/plain-0", "random:{}/plain-1"], {"mode": "augmented"}, "no result with mode augmented; there is cached"),
        (["{}/plain-0", ""], {}, "names no"),
    ],
)
def test_complaints(runs: Path, words: list[str], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compare_paths([word.format(runs) for word in words], CompareSettings(**settings))
    assert "\n" not in str(caught.value)


def test_several_evaluations(runs: Path) -> None:
    for name in ("plain", "color"):
        saved(runs / f"{name}-0", of(0.5, 0, name, protocol="knn"), of(0.5, 0, name, fraction=0.01))
    saved(runs / "plain-0", of(0.4, 0, "plain", protocol="goyal2019"))
    words = [f"{runs}/plain-0", f"{runs}/color-0"]
    with pytest.raises(UserError, match=r"share 3 evaluations: .*knn on photos/test with 100% of the labels"):
        compare_paths(words)
    assert compare_paths(words, CompareSettings(protocol="knn")).pairs[0].first.first.protocol == "knn"
    assert compare_paths(words, CompareSettings(fraction=0.01)).pairs[0].first.first.fraction == 0.01
    with pytest.raises(UserError, match="no result with protocol goyal2019"):
        compare_paths(words, CompareSettings(protocol="goyal2019"))
    with pytest.raises(UserError, match="other protocol"):
        files = [next((runs / f"{name}-0" / "results").glob(pattern)) for name, pattern in
                 (("plain", "knn*"), ("color", "modern.cached*color*"))]  # fmt: skip
        compare_paths([str(file) for file in files])


def test_a_name_with_a_comma_or_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("random:a,b[1]"), of(0.5, 0, "a"))
    saved(Path("c"), of(0.6, 1))
    assert compare_paths(["random:a,b[1]", "c"]).pairs[0].first.label == "a0"


def test_hostile_names_do_not_steer_the_terminal() -> None:
    name = "\x1b[31mred"
    first = result(name, rows=[row(name, Top1Accuracy(np.ones(30, dtype=bool)))], test=name)
    second = result("[bold]b", rows=[row(name, Top1Accuracy(np.arange(30) < 4))], test=name)
    text = printed(compare([[first], [second]]))
    assert "\x1b" not in text and r"\x1b[31mred" in text and "[bold]b" in text
    assert "<0.0001" in text
