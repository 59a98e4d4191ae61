"""What networks lose from a plain test set to shifted ones: other cameras, weather, corruption."""

import math
from collections.abc import Sequence

from pretext.data.formats import without_ending
from transfer.bootstrap import METRIC_TITLES, Estimate
from transfer.columns import Column, columns, score_difference
from transfer.evaluation import EvaluationSettings, open_test_sets
from transfer.layout import Number, Sheet, TableGrid
from transfer.results import Result


def shift_sheets(results: Sequence[Result], settings: EvaluationSettings) -> list[Sheet]:
    """Return a table of what each network loses from the first test set to the others, for each mode.

    The row that is compared is the best on the held-out training images; of a protocol that holds none out, the last.
    Two test sets of equal keys but for the ending, such as photographs and blurred copies, are paired image by image.

    Args:
        results: what an evaluation by these settings returned.
        settings: with several test sets.
    """
    sets = list(open_test_sets(settings).values())
    keys = [[without_ending(one.test.key(index)) for index in range(len(one.test))] for one in sets]
    by_test = [columns([result for result in results if result.test_digest == one.test_digest]) for one in sets]
    unread = [{without_ending(key) for key, _ in of_set[0].first.skipped} for of_set in by_test]
    paired = [shown == (keys[0], unread[0]) for shown in zip(keys, unread, strict=True)]
    sheets = []
    for mode in dict.fromkeys(result.mode for result in results):
        rows = []
        for of_network in zip(*([one for one in each if one.first.mode == mode] for each in by_test), strict=True):
            plain, name = of_network[0], of_network[0].best or of_network[0].names[-1]
            cells = [Number(column.cells[name].score) for column in of_network]
            losses = [
                Number(_change(plain, column, name, is_paired), signed=True)
                for column, is_paired in zip(of_network[1:], paired[1:], strict=True)
            ]
            shifted = [cell for pair in zip(cells[1:], losses, strict=True) for cell in pair]
            rows.append((f"{plain.label}, {name}", (cells[0], *shifted)))
        first, *others = settings.tests
        header = (first, *(title for other in others for title in (other, f"{other}\n- {first}")))
        shown = by_test[0][0].first
        title = f"{shown.protocol}, {mode}: {METRIC_TITLES[shown.metric]} on shifted test images, %"
        sheets.append(
            Sheet(title, TableGrid("network, row", header, tuple(rows), "test images"), _footer(settings, paired))
        )
    return sheets


def _change(plain: Column, shifted: Column, name: str, paired: bool) -> Estimate:
    """Return the shifted number minus the plain one, with its 95% interval.

    Of unpaired images the intervals of both are combined as by Newcombe (Statistics in Medicine 1998, method 10).
    """
    if paired:
        return score_difference(plain, shifted, name, name)
    before, after = (column.cells[name].score for column in (plain, shifted))
    change = after.value - before.value
    low = change - math.hypot(after.value - after.low, before.high - before.value)
    high = change + math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(change, low, high)


def _footer(settings: EvaluationSettings, paired: Sequence[bool]) -> tuple[str, ...]:
    lines = [f"{name}: {test}" for name, test in settings.tests.items()]
    same = [name for name, is_paired in zip(settings.tests, paired, strict=True) if is_paired][1:]
    if same:
        lines.append(
            f"images of the same names as in {next(iter(settings.tests))}, compared one by one: {', '.join(same)}"
        )
    return tuple(lines)
