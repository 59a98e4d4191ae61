"""A probe's result in the terminal."""

from rich import box
from rich.table import Table

from transfer.intervals import Estimate
from transfer.results import Probe


def probe_lines(probe: Probe) -> list[str | Table]:
    """A title, a table and what its numbers depend on.

    The table: accuracy of every stage in percent, [95% interval], random beside pretrained; the best
    stages in bold, and their difference.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in ("dims", "random init", "pretrained", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in probe.stages:
        pairs = ((stage.random, probe.best_random), (stage.pretrained, probe.best_pretrained))
        cells = [f"[bold]{_text(value)}[/]" if stage == best else _text(value) for value, best in pairs]
        table.add_row(stage.name, str(stage.dims), *cells, _text(stage.difference, "+"))
    table.add_section()
    table.add_row("best", "", probe.best_random.name, probe.best_pretrained.name, _text(probe.difference, "+"))
    return [
        f"{probe.protocol}: accuracy on {probe.n_test:,} test pictures of {probe.test}, %",
        table,
        f"[..]: {probe.interval}",
        f"fitted on {probe.n_train:,} pictures; {probe.n_holdout:,} of them chose penalty and best stage (bold)",
        f"pretraining seed {probe.pretraining_seed}, step {probe.step:,}; probe seed {probe.seed}; "
        f"pictures seen at {probe.view_size} px",
    ]


def _text(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{100 * number:{sign}.1f}" for number in estimate)
    return f"{value} \\[{low}, {high}]"
