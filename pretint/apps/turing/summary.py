"""What is told of a study: for its page, for a terminal, and to take away as CSV and JSON."""

from datetime import UTC, datetime
from typing import Any

from pretext.escape import csv_text
from pretint.apps.turing.results import ABOUT, Answer, Rate, extremes, judged_images, rate_of
from pretint.apps.turing.store import Row, Store, without_token

_EXTREMES = 6


def summary(store: Store) -> dict[str, Any]:
    """What the results page shows."""
    rows, people = store.rows(), store.participants()
    scored = [row for row in rows if not row.practice]
    answers = [_answer(row) for row in scored if row.counts]
    found = []
    for index, name in enumerate(store.facts.names):
        judged = judged_images(answers, index)
        most, least = extremes(judged, _EXTREMES)
        found.append(
            {
                "index": index,
                "name": name,
                "rate": rate_of(answers, index),
                "joined": sum(algorithm == index for algorithm, _ in people),
                "finished": sum(algorithm == index and done for algorithm, done in people),
                "judged": judged,
                "most": most,
                "least": least,
            }
        )
    rates: list[Rate] = [one["rate"] for one in found if one["rate"] is not None]  # type: ignore[misc]
    top = 0.6 if all(rate.estimate.high <= 0.6 for rate in rates) else 1.0
    return {
        "algorithms": found,
        "names": store.names,
        "joined": len(people),
        "finished": sum(done for _, done in people),
        "answers": len(scored),
        "late": sum(not row.on_time for row in scored),
        "color_blind": sum(row.on_time and row.vision == "no" for row in scored),
        "top": top,
        "ticks": [round(top * step / 6 * 100) for step in range(7)] if top < 1 else [0, 25, 50, 75, 100],
        "about": ABOUT,
        "now": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    }


def results_json(store: Store) -> dict[str, Any]:
    """The results as plain values."""
    found = summary(store)
    algorithms = []
    for one in found["algorithms"]:
        rate: Rate | None = one["rate"]
        algorithms.append(
            {
                "name": one["name"],
                "fooling_rate": rate and rate.estimate.value,
                "interval": rate and [rate.estimate.low, rate.estimate.high],
                "standard_error": rate and rate.error,
                "participants": rate.participants if rate else 0,
                "trials": rate.trials if rate else 0,
                "joined": one["joined"],
                "finished": one["finished"],
                "images": [
                    {"name": store.names[pair], "fooled": fooled, "trials": trials}
                    for pair, fooled, trials in one["judged"]
                ],
            }
        )
    left_out = {"not_shown_as_long_as_they_should_be": found["late"], "color_vision": found["color_blind"]}
    facts = without_token(store.facts) | {"pairs": len(store.names)}
    return {
        "study": facts,
        "interval": ABOUT,
        "answers": found["answers"],
        "left_out": left_out,
        "algorithms": algorithms,
    }


def result_lines(store: Store) -> list[str]:
    """The results as lines for a terminal."""
    found = summary(store)
    lines = [f"{found['joined']} participants, {found['finished']} of them finished; {found['answers']} scored answers"]
    for one in found["algorithms"]:
        rate: Rate | None = one["rate"]
        if rate is None:
            lines.append(f"{one['name']}: no answers yet")
            continue
        value, low, high = (f"{100 * number:.1f}" for number in rate.estimate)
        lines.append(
            f"{one['name']}: taken for real in {value}% [{low}, {high}], standard error {100 * rate.error:.1f}; "
            f"{rate.participants} participants, {rate.trials} trials"
            + (" (the interval of one participant says nothing about other people)" if rate.participants < 2 else "")
        )
    left_out = [(found["late"], "not shown as long as they should be"), (found["color_blind"], "color vision")]
    lines += [f"left out: {count} answers ({why})" for count, why in left_out if count]
    return [*lines, f"interval: {ABOUT}"]


def answers_csv(store: Store) -> str:
    """All answers, one a line. No cell of it begins as a spreadsheet's formula does."""
    shown = ("shown_ms", "frames", "longest_frame_ms", "hidden", "response_ms", "layout", "side_px", "pixel_ratio")
    about = ("participant", "vision", "algorithm", "trial", "practice", "image", "fake", "chosen", "fooled")
    lines: list[list[Any]] = []
    for row in store.rows():
        cells: list[Any] = [row.participant, row.vision, store.facts.names[row.algorithm], row.number]
        cells += [int(row.practice), store.names[row.pair], _side(row.fake_first), _side(row.chose_first)]
        cells += [int(row.fooled), int(row.on_time), int(row.counts), _time(row.seen_at), _time(row.answered_at)]
        cells += row.shown
        lines.append(cells)
    return csv_text((*about, "on_time", "counts", "seen_at", "answered_at", *shown), lines, end="\r\n")


def _answer(row: Row) -> Answer:
    return Answer(row.participant, row.algorithm, row.pair, row.fooled)


def _side(first: bool) -> str:
    return "first" if first else "second"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
