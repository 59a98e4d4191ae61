"""Whether two networks differ: paired differences on the same test images, tested, corrected for how many."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table

from pretext.data.patterns import is_pattern, match_paths
from pretext.engine.progress import progress
from pretext.errors import UserError
from pretext.escape import escape_controls
from transfer.bootstrap import MEASURES, Estimate, holm
from transfer.columns import Column, Gap, columns, tested_gap
from transfer.layout import drawn
from transfer.results import PREFIX, Result, evaluation, find_results, require_comparable

KINDS = ("random", "pretrained", "supervised", "published")


@dataclass
class CompareSettings:
    """Which results are compared, where there are several.

    Args:
        protocol: its name; needed only if all networks were judged by several.
        test: the test data, as it was named when they were judged; needed only if there are several.
        fraction: share of the labels that were used; 0 takes the one that there is.
        mode: cached, augmented, or any, which also compares across the two; by default augmented if all have it.
    """

    protocol: str = ""
    test: str = ""
    fraction: float = 0.0
    mode: Literal["", "cached", "augmented", "any"] = ""


class Line(NamedTuple):
    """One row of the first network against one of the other."""

    name: str
    other: str
    first: Estimate
    second: Estimate
    gap: Gap
    """Second minus first."""
    adjusted: float
    """p after Holm's correction for all lines of the comparison."""
    best: bool
    """Whether both rows are those that held-out images chose."""


class Pair(NamedTuple):
    """The first network against another."""

    first: Column
    second: Column
    lines: tuple[Line, ...]
    """The rows that both have; last, if it is none of these, best row against best row."""
    left_out: tuple[str, ...]
    """Rows that only one of them has."""


class Comparison(NamedTuple):
    """Networks against the first of them."""

    pairs: tuple[Pair, ...]

    @property
    def n_tests(self) -> int:
        """How many tests Holm's correction is for."""
        return sum(len(pair.lines) for pair in self.pairs)


def compare(groups: Sequence[Sequence[Result]], across_modes: bool = False) -> Comparison:
    """Compare two networks or more with the first, row by row and best against best.

    Args:
        groups: of each network the results at its seeds.
        across_modes: whether cached may be compared with augmented.

    Raises:
        UserError: a group is none, or not one network in one mode; the groups differ in data, test
            images, protocol, metric or mode; no row is comparable.
    """
    if len(groups) < 2:
        raise UserError("one network alone cannot be compared; name two or more")
    require_comparable([result for group in groups for result in group])
    found = [_column(group) for group in groups]
    for other in found[1:]:
        if not across_modes and other.first.mode != found[0].first.mode:
            raise UserError(
                f"{_named(other.first)} is {other.first.mode}, {_named(found[0].first)} is {found[0].first.mode}; "
                "choose one mode, or ask for any"
            )
    drafts = [(other, _pairs_of_rows(found[0], other)) for other in found[1:]]
    gaps: list[list[Gap]] = []
    slow = found[0].first.rows[0].outcomes[0].slow
    with progress("tests", sum(len(rows) for _, rows in drafts), "tests") if slow else nullcontext() as advance:
        for other, rows in drafts:
            gaps.append([])
            for names in rows:
                gaps[-1].append(tested_gap(found[0], other, *names))
                if advance is not None:
                    advance(1, "")
    adjusted = iter(holm([gap.p for of_pair in gaps for gap in of_pair]))
    pairs = []
    for (other, rows), of_pair in zip(drafts, gaps, strict=True):
        lines = tuple(
            Line(
                name,
                against,
                found[0].cells[name].score,
                other.cells[against].score,
                gap,
                next(adjusted),
                best=(name, against) == (found[0].best, other.best),
            )
            for (name, against), gap in zip(rows, of_pair, strict=True)
        )
        both = {*found[0].names} & {*other.names}
        alone = [name for name in (*found[0].names, *other.names) if name not in both]
        pairs.append(Pair(found[0], other, lines, tuple(dict.fromkeys(alone))))
    return Comparison(tuple(pairs))


def compare_paths(words: Sequence[str], settings: CompareSettings | None = None) -> Comparison:
    """The job of ``pretint compare A B [C ...]``: every network against A.

    Args:
        words: a network each, at one seed or several: ``PATH[,PATH ...]`` or ``KIND:PATH[,PATH ...]``. A path
            is a result's file, a run, a folder of result files, a folder of runs, or a quoted pattern for
            them ("runs/color-*"). Where results of several networks lie there, the one that is meant is that
            which is not random; ``random:RUN`` means the random one, and so do the other kinds
            (pretrained, supervised, published); ``rescaled:`` before either means the one that was rescaled before
            it was fine-tuned. Of several steps of a network the last counts.
        settings: which evaluation, where there are several.

    Raises:
        UserError: as ``compare``; nothing is found, or it is not clear which network or evaluation is meant.
    """
    settings = settings or CompareSettings()
    groups = [_meant(word, settings) for word in words]
    if len(groups) < 2:
        raise UserError("one network alone cannot be compared; name two or more")
    common = set.intersection(*({repr(evaluation(result)) for result in group} for group in groups))
    if len(common) > 1:
        several = [result for result in groups[0] if repr(evaluation(result)) in common]
        kinds = dict.fromkeys(f"{r.protocol} on {r.test} with {r.fraction:.0%} of the labels" for r in several)
        raise UserError(
            f"{len(common)} evaluations are there: {'; '.join(kinds)}; choose by protocol, test or fraction"
        )
    if common:
        groups = [[result for result in group if repr(evaluation(result)) in common] for group in groups]
    modes = set.intersection(*({result.mode for result in group} for group in groups))
    mode: str = settings.mode or ("augmented" if "augmented" in modes else min(modes, default=""))
    if mode != "any":
        groups = [[result for result in group if not mode or result.mode == mode] for group in groups]
    return compare(groups, across_modes=mode == "any")


def comparison_lines(comparison: Comparison) -> list[str | Table]:
    """For the terminal: a table per pair, and what its numbers depend on."""
    first = comparison.pairs[0].first.first
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    lines: list[str | Table] = [
        escape_controls(
            f"{first.protocol}: {MEASURES[first.metric]} on {first.n_test:,} test images of {first.test}, %"
        ),
    ]
    every = [comparison.pairs[0].first, *(pair.second for pair in comparison.pairs)]
    names = [letters[at] if at < len(letters) else f"#{at + 1}" for at in range(len(every))]
    lines += [escape_controls(f"{name}: {_described(column)}") for name, column in zip(names, every, strict=True)]
    for name, pair in zip(names[1:], comparison.pairs, strict=True):
        lines.append(_table(pair, names[0], name))
        if pair.left_out:
            lines.append(escape_controls(f"only in {names[0]} or in {name}: {', '.join(pair.left_out)}"))
    tests = dict.fromkeys(line.gap.test for pair in comparison.pairs for line in pair.lines)
    lines += [
        f"[..]: {first.interval}; of a difference: the same images for both",
        f"p: {' or '.join(tests)}, two-sided, for these networks as they are; "
        f"Holm: corrected for {comparison.n_tests} {'test' if comparison.n_tests == 1 else 'tests'}",
    ]
    if any(line.gap.over_seeds is not None for pair in comparison.pairs for line in pair.lines):
        lines.append("over seeds: Welch's 95% t interval of the difference between networks trained anew")
    if any(line.best for pair in comparison.pairs for line in pair.lines):
        lines.append("*: the best rows, chosen on held-out training images")
    return lines


def _table(pair: Pair, first: str, second: str) -> Table:
    seeds = any(line.gap.over_seeds is not None for line in pair.lines)
    rows = []
    for line in pair.lines:
        name = line.name if line.name == line.other else f"{line.name} | {line.other}"
        cells = [_percent(line.first), _percent(line.second), _percent(line.gap.difference, "+")]
        if seeds:
            cells.append("" if line.gap.over_seeds is None else _interval(line.gap.over_seeds, "+"))
        rows.append([f"{name} *" if line.best else name, *cells, _p(line.gap.p), _p(line.adjusted)])
    over = ["over seeds"] if seeds else []
    return drawn(["stage", first, second, f"{second} - {first}", *over, "p", "Holm"], rows)


def _pairs_of_rows(first: Column, second: Column) -> list[tuple[str, str]]:
    rows = [(name, name) for name in first.names if name in second.names]
    if first.best is not None and second.best is not None and (first.best, second.best) not in rows:
        rows.append((first.best, second.best))
    if not rows:
        raise UserError(
            f"{_named(first.first)} and {_named(second.first)} have no row in common, and no best row; "
            "judge both by a protocol that holds images out"
        )
    return rows


def _column(group: Sequence[Result]) -> Column:
    found = columns(group)
    if not found:
        raise UserError("a group without results; name two or more networks")
    if len(found) > 1:
        names = "; ".join(_described(column) for column in found)
        raise UserError(
            f"not one network in one mode but {len(found)}: {names}; name result files, or a kind: random:RUN"
        )
    return found[0]


def _meant(word: str, settings: CompareSettings) -> list[Result]:
    """The results of the network that a word of the command line names."""
    rescaled = word.startswith(PREFIX) and not Path(word).exists()
    named = word.removeprefix(PREFIX) if rescaled else word
    kind, _, rest = named.partition(":")
    if kind not in KINDS or Path(named).exists():
        kind, rest = "", named
    if not rest.strip(","):
        raise UserError(f"{word!r} names no results; name a result's file, a run, or a folder of them")
    results = find_results([path for part in _parts(rest) for path in _paths(part)])
    if kind:
        results = [result for result in results if result.network.kind == kind]
    else:
        results = [result for result in results if result.network.kind != "random"] or results
    alike = [result for result in results if result.network.rescaled == rescaled]
    results = alike if alike or rescaled else results
    if not results:
        raise UserError(f"{word}: no result of a {kind or 'rescaled'} network there")
    for name in ("protocol", "test", "fraction", "mode"):
        asked = getattr(settings, name)
        if asked and asked != "any":
            there = dict.fromkeys(str(getattr(result, name)) for result in results)
            results = [result for result in results if getattr(result, name) == asked]
            if not results:
                raise UserError(f"{word}: no result with {name} {asked}; there is {', '.join(there)}")
    last = {key: max(r.network.step for r in results if _same(r) == key) for key in map(_same, results)}
    return [result for result in results if result.network.step == last[_same(result)]]


def _same(result: Result) -> tuple[str, str, int]:
    return result.network.name, result.network.kind, result.network.seed


def _parts(text: str) -> list[str]:
    return [text] if Path(text).exists() else [part for part in text.split(",") if part]


def _paths(part: str) -> list[Path]:
    """A path, or what a pattern finds."""
    if not is_pattern(part):
        return [Path(part)]
    every = [Path(path) for path in match_paths(part)]
    found = [path for path in every if path.is_dir() or path.suffix == ".json"]  # a log beside a run is not meant
    if not found:
        raise UserError(f"{part}: no folder and no .json file is found by this pattern")
    return found


def _described(column: Column) -> str:
    network = column.first.network
    steps = f", step {network.step:,}" if network.step else ""
    return f"{column.label} ({network.kind} {network.backbone}, {column.seeds}{steps}, {column.first.mode})"


def _named(result: Result) -> str:
    return result.file or result.network.name


def _interval(estimate: Estimate, sign: str = "") -> str:
    return f"[{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def _percent(estimate: Estimate, sign: str = "") -> str:
    return f"{100 * estimate.value:{sign}.1f} {_interval(estimate, sign)}"


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
