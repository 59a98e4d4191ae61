"""A probe's result as a table in the terminal."""

from rich import box
from rich.table import Table

from transfer.intervals import Estimate
from transfer.results import Probe


def probe_table(probe: Probe) -> Table:
    """Accuracy of every stage in percent, [95% interval], random beside pretrained; best stages in bold."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False)
    table.title = f"{probe.protocol}: accuracy on {probe.n_test:,} test pictures of {probe.test}, %"
    table.add_column("stage", no_wrap=True)
    for name in ("dims", "random init", "pretrained", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in probe.stages:
        pairs = ((stage.random, probe.best_random), (stage.pretrained, probe.best_pretrained))
        cells = [f"[bold]{_text(value)}[/]" if stage == best else _text(value) for value, best in pairs]
        table.add_row(stage.name, str(stage.dims), *cells, _text(stage.difference, "+"))
    table.add_section()
    table.add_row("best", "", probe.best_random.name, probe.best_pretrained.name, _text(probe.difference, "+"))
    table.caption = (
        f"[..]: {probe.interval}.\n"
        f"Fitted on {probe.n_train:,} pictures; {probe.n_holdout:,} of them chose penalty and best stage (bold).\n"
        f"Pretraining seed {probe.pretraining_seed}, probe seed {probe.seed}, step {probe.step:,}; "
        f"pictures seen at {probe.view_size} px."
    )
    return table


def _text(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{100 * number:{sign}.1f}" for number in estimate)
    return f"{value} \\[{low}, {high}]"
