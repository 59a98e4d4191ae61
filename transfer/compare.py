"""Comparison of networks: paired differences on the same test images, with tests and Holm's correction."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table

from pretext.engine.progress import progress
from pretext.errors import UserError
from pretext.escape import escape_controls
from transfer.bootstrap import METRIC_TITLES, Estimate, holm, p_text
from transfer.columns import Column, Difference, columns, test_difference
from transfer.layout import Number, draw_table
from transfer.results import PREFIX, Result, comparison_facts, find_results, require_comparable

KINDS = ("random", "pretrained", "supervised", "published")


@dataclass
class CompareSettings:
    """The choice of results to compare, if there are several.

    Args:
        protocol: its name; needed only if all networks were evaluated by several.
        test: the test data, as they were named in the evaluation; needed only if there are several.
        fraction: share of the labels that were used; 0 if there is only one.
        mode: cached, augmented, or any, which also compares cached with augmented; by default augmented if all networks
            have it.
    """

    protocol: str = ""
    test: str = ""
    fraction: float = 0.0
    mode: Literal["", "cached", "augmented", "any"] = ""


class ComparisonRow(NamedTuple):
    """A row of the first network, compared with a row of the other."""

    name: str
    other: str
    first: Estimate
    second: Estimate
    gap: Difference
    """Second minus first."""
    adjusted: float
    """p after Holm's correction for all lines of the comparison."""
    best: bool
    """Whether held-out images chose both rows."""


class NetworkPair(NamedTuple):
    """The first network, compared with another."""

    first: Column
    second: Column
    lines: tuple[ComparisonRow, ...]
    """The rows that both have. Last comes best row against best row, unless that is one of these."""
    left_out: tuple[str, ...]
    """Rows that only one of them has."""


class Comparison(NamedTuple):
    """Several networks, each compared with the first."""

    pairs: tuple[NetworkPair, ...]

    @property
    def n_tests(self) -> int:
        """The number of tests that Holm's correction is for."""
        return sum(len(pair.lines) for pair in self.pairs)


def compare(groups: Sequence[Sequence[Result]], across_modes: bool = False) -> Comparison:
    """Compare two networks or more with the first, row by row and best against best.

    Args:
        groups: for each network the results at its seeds.
        across_modes: allow to compare cached with augmented.

    Raises:
        UserError: a group is empty, or has more than one network or mode; the groups differ in data, test
            images, protocol, metric or mode; no row is comparable.
    """
    if len(groups) < 2:
        raise UserError("one network alone cannot be compared; name two or more")
    require_comparable([result for group in groups for result in group])
    first, *others = [_column(group) for group in groups]
    drafts = []  # for each other network: its column, and the pairs of rows to compare (the first network's, its own)
    for other in others:
        if not across_modes and other.first.mode != first.first.mode:
            raise UserError(
                f"{_file_or_name(other.first)} is {other.first.mode}, {_file_or_name(first.first)} is "
                f"{first.first.mode}; choose one mode, or set mode to any"
            )
    for other in others:
        rows = [(name, name) for name in first.names if name in other.names]
        if first.best is not None and other.best is not None and (first.best, other.best) not in rows:
            rows.append((first.best, other.best))
        if not rows:
            raise UserError(
                f"{_file_or_name(first.first)} and {_file_or_name(other.first)} have no row in common, and no best "
                "row; evaluate both with a protocol that holds out images"
            )
        drafts.append((other, rows))
    gaps: list[list[Difference]] = []
    slow = first.first.rows[0].outcomes[0].slow
    with progress("tests", sum(len(rows) for _, rows in drafts), "tests") if slow else nullcontext() as advance:
        for other, rows in drafts:
            gaps.append([])
            for names in rows:
                gaps[-1].append(test_difference(first, other, *names))
                if advance is not None:
                    advance(1, "")
    adjusted = iter(holm([gap.p for of_pair in gaps for gap in of_pair]))
    pairs = []
    for (other, rows), of_pair in zip(drafts, gaps, strict=True):
        lines = tuple(
            ComparisonRow(
                name,
                against,
                first.cells[name].score,
                other.cells[against].score,
                gap,
                next(adjusted),
                best=(name, against) == (first.best, other.best),
            )
            for (name, against), gap in zip(rows, of_pair, strict=True)
        )
        both = {*first.names} & {*other.names}
        alone = [name for name in (*first.names, *other.names) if name not in both]
        pairs.append(NetworkPair(first, other, lines, tuple(dict.fromkeys(alone))))
    return Comparison(tuple(pairs))


def compare_paths(words: Sequence[str], settings: CompareSettings | None = None) -> Comparison:
    """Compare every network with the first one: the job of ``pretint compare A B [C ...]``.

    Args:
        words: each names a network, at one seed or several: ``PATH[,PATH ...]`` or ``KIND:PATH[,PATH ...]``. A path
            is a result's file, a run, a folder of result files, a folder of runs, or a quoted pattern for
            them ("runs/color-*"). If there are results of several networks, the path means the one that is not random;
            ``random:RUN`` means the random one, and the other kinds (pretrained, supervised, published) likewise;
            ``rescaled:`` in front means the network that was rescaled before fine-tuning. Of several steps of a
            network the last counts.
        settings: the evaluation to compare, if there are several.

    Raises:
        UserError: as ``compare``; there are no results, or the network or the evaluation is not clear.
    """
    settings = settings or CompareSettings()
    groups = [_read_results(word, settings) for word in words]
    if len(groups) < 2:
        raise UserError("one network alone cannot be compared; name two or more")
    common = set.intersection(*({repr(comparison_facts(result)) for result in group} for group in groups))
    if len(common) > 1:
        several = [result for result in groups[0] if repr(comparison_facts(result)) in common]
        kinds = dict.fromkeys(f"{r.protocol} on {r.test} with {r.fraction:.0%} of the labels" for r in several)
        raise UserError(
            f"the networks share {len(common)} evaluations: {'; '.join(kinds)}; choose one with protocol, test or "
            "fraction"
        )
    if common:
        groups = [[result for result in group if repr(comparison_facts(result)) in common] for group in groups]
    modes = set.intersection(*({result.mode for result in group} for group in groups))
    mode: str = settings.mode or ("augmented" if "augmented" in modes else min(modes, default=""))
    if mode != "any":
        groups = [[result for result in group if not mode or result.mode == mode] for group in groups]
    return compare(groups, across_modes=mode == "any")


def comparison_lines(comparison: Comparison) -> list[str | Table]:
    """Return lines for the terminal: a table for each pair, and the facts that its numbers depend on."""
    first = comparison.pairs[0].first.first
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    lines: list[str | Table] = [
        escape_controls(
            f"{first.protocol}: {METRIC_TITLES[first.metric]} on {first.n_test:,} test images of {first.test}, %"
        ),
    ]
    every = [comparison.pairs[0].first, *(pair.second for pair in comparison.pairs)]
    names = [letters[at] if at < len(letters) else f"#{at + 1}" for at in range(len(every))]
    lines += [escape_controls(f"{name}: {_describe(column)}") for name, column in zip(names, every, strict=True)]
    for name, pair in zip(names[1:], comparison.pairs, strict=True):
        seeds = any(line.gap.over_seeds is not None for line in pair.lines)
        rows = []
        for line in pair.lines:
            row = line.name if line.name == line.other else f"{line.name} | {line.other}"
            cells = [Number(line.first).text, Number(line.second).text, Number(line.gap.difference, signed=True).text]
            if seeds:
                cells.append(Number(line.gap.over_seeds, signed=True).interval if line.gap.over_seeds else "")
            rows.append([f"{row} *" if line.best else row, *cells, p_text(line.gap.p), p_text(line.adjusted)])
        over = ["over seeds"] if seeds else []
        lines.append(draw_table(["stage", names[0], name, f"{name} - {names[0]}", *over, "p", "Holm"], rows))
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


def _column(group: Sequence[Result]) -> Column:
    """Return the one column of a group, or raise a UserError."""
    candidates = columns(group)
    if not candidates:
        raise UserError("a group has no results; name two or more networks")
    if len(candidates) > 1:
        names = "; ".join(_describe(column) for column in candidates)
        raise UserError(
            f"expected one network in one mode, but there are {len(candidates)}: {names}; name result files, or a kind "
            "such as random:RUN"
        )
    return candidates[0]


def _read_results(word: str, settings: CompareSettings) -> list[Result]:
    """Return the results of the network that a word of the command line names."""
    rescaled = word.startswith(PREFIX) and not Path(word).exists()
    named = word.removeprefix(PREFIX) if rescaled else word
    kind, _, rest = named.partition(":")
    if kind not in KINDS or Path(named).exists():
        kind, rest = "", named
    if not rest.strip(","):
        raise UserError(f"{word!r} names no results; name a result's file, a run, or a folder of them")
    results = find_results([rest] if Path(rest).exists() else [part for part in rest.split(",") if part])
    if kind:
        results = [result for result in results if result.network.kind == kind]
    else:
        results = [result for result in results if result.network.kind != "random"] or results
    alike = [result for result in results if result.network.rescaled == rescaled]
    results = alike if alike or rescaled else results
    if not results:
        raise UserError(f"{word}: there is no result of a {kind or 'rescaled'} network; name another path")
    for name in ("protocol", "test", "fraction", "mode"):
        value = getattr(settings, name)
        if value and value != "any":
            choices = dict.fromkeys(str(getattr(result, name)) for result in results)
            results = [result for result in results if getattr(result, name) == value]
            if not results:
                raise UserError(f"{word}: no result with {name} {value}; there is {', '.join(choices)}")
    last = {key: max(r.network.step for r in results if _network_key(r) == key) for key in map(_network_key, results)}
    return [result for result in results if result.network.step == last[_network_key(result)]]


def _network_key(result: Result) -> tuple[str, str, int]:
    return result.network.name, result.network.kind, result.network.seed


def _describe(column: Column) -> str:
    network = column.first.network
    steps = f", step {network.step:,}" if network.step else ""
    return f"{column.label} ({network.kind} {network.backbone}, {column.seeds}{steps}, {column.first.mode})"


def _file_or_name(result: Result) -> str:
    return result.file or result.network.name
