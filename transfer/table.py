"""A probe's result as a table in the terminal."""

from typing import Any

from rich import box
from rich.table import Table


def probe_table(outcome: dict[str, Any]) -> Table:
    """Accuracy of every stage in percent, [95% interval], random beside pretrained; best stages in bold."""
    data, best = outcome["data"], outcome["best"]
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False)
    table.title = f"{outcome['protocol']}: accuracy on {data['n_test']:,} test pictures of {data['test']}, %"
    table.add_column("stage", no_wrap=True)
    for name in ("dims", "random init", "pretrained", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in outcome["stages"]:
        cells = []
        for network in ("random", "pretrained"):
            text = _interval(row[network]["accuracy"], row[network])
            cells.append(f"[bold]{text}[/bold]" if best[network] == row["stage"] else text)
        cells.append(_interval(row["difference"]["value"], row["difference"], "+"))
        table.add_row(row["stage"], str(row["dims"]), *cells)
    gain = best["difference"]
    table.add_section()
    table.add_row("best", "", best["random"], best["pretrained"], _interval(gain["value"], gain, "+"))
    table.caption = (
        f"[..]: {outcome['interval']}.\n"
        f"Fitted on {data['n_train']:,} pictures; {data['n_holdout']:,} of them chose penalty and best stage (bold).\n"
        f"Pretraining seed {outcome['pretraining_seed']}, probe seed {outcome['seed']}, step {outcome['step']:,}; "
        f"pictures seen at {outcome['view_size']} px."
    )
    return table


def _interval(value: float, bounds: dict[str, float], sign: str = "") -> str:
    low, high = (f"{100 * bounds[name]:{sign}.1f}" for name in ("low", "high"))
    return f"{100 * value:{sign}.1f} \\[{low}, {high}]"
