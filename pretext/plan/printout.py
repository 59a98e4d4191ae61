"""A plan in the terminal."""

from collections.abc import Callable

import torch
from rich import box
from rich.table import Table

from pretext.engine.device import Place
from pretext.plan.job import Plan
from pretext.plan.measure import Rate


def plan_lines(plan: Plan) -> list[str | Table]:
    """A title, a table, and what to know of it."""
    training, place = plan.settings.training, plan.place
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    for style in ("bold", "", ""):
        table.add_column(style=style, no_wrap=True)
    table.columns[1].justify = "right"

    def row(name: str, value: str, remark: str = "", last: bool = False) -> None:
        table.add_row(name, value, remark, end_section=last)

    held = f"{plan.held:,} more are held out" if plan.held else "none is held out"
    row("images", f"{plan.images:,}", held)
    row("", f"{plan.seen:,}", f"seen, in {training.steps:,} steps of {training.batch_size}: "
        f"{_three(plan.seen / plan.images)} epochs", last=True)  # fmt: skip
    row("network alone", _per_second(plan.network), "images/s, whole steps on images in memory")
    row("data alone", _per_second(plan.data), f"images/s, no cache, {_workers(place)}")
    row("together", _per_second(plan.both), "images/s, as the training loop has them", last=True)
    row("time", _between(*plan.seconds, spoken), f"to the end of step {training.steps:,}")
    row("", spoken(plan.before), "of it before the first step")
    row("", spoken(plan.looks * plan.look), f"for {plan.looks:,} looks at held-out images")
    row("", spoken(plan.saves * plan.save), f"for {plan.saves:,} checkpoints, without the disk's own time", last=True)
    if plan.device is not None:
        row("memory", size(plan.device), f"on {place.device}, at the peak")
    row("memory" if plan.device is None else "", size(plan.host), "of this process at the peak, with Python and torch")
    if place.workers:
        row("", size(plan.workers), f"of {_workers(place)}, before machine.cache is full")
    row("", size(plan.weights), f"of it weights: {plan.parameters:,} parameters")
    row("", size(plan.gradients), "gradients")
    row("", size(plan.optimizer), f"state of {training.optimizer}")
    if plan.average:
        row("", size(plan.average), "moving average of the weights")
    table.add_section()
    row("disk", size(plan.disk), "when it is complete, without the report")
    row("", size(plan.kept), f"two checkpoints of {size(plan.checkpoint)}; for moments three")
    row("", size(plan.looks * plan.sheet), "samples")
    row("", size(plan.journal + plan.tensorboard), "journal and TensorBoard; samples are in it once more")
    threads = torch.get_num_threads()
    return [
        f"{plan.settings.backbone.name} on {place.device}, {place.precision}, 1 process, {_count(threads, 'thread')}",
        table,
        f"The limit is {plan.limit}.",
        *plan.notes,
    ]


def size(count: int) -> str:
    """Bytes, as people say it: 12.3 MB."""
    for unit, name in ((10**10, "GB"), (10**5, "MB")):
        if count >= unit:
            return f"{count / {'GB': 1e9, 'MB': 1e6}[name]:,.1f} {name}"
    return f"{count / 1e3:,.1f} kB" if count else "0"


def spoken(seconds: float) -> str:
    """A time, as exactly as a plan can know it: 0.4 s, 45 s, 12 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(10 * round(minutes / 10), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours and days < 10 else f"{days} d"


def _between(low: float, high: float, text: Callable[[float], str]) -> str:
    one, other = text(low), text(high)
    return f"about {one}" if one == other else f"{one} to {other}"


def _per_second(measured: Rate) -> str:
    return _between(measured.low, measured.high, _three)


def _three(value: float) -> str:
    """Two significant digits, three of a thousand and more."""
    return f"{value:.2g}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def _workers(place: Place) -> str:
    return _count(place.workers, "worker")


def _count(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
