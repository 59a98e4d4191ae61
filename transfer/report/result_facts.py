"""Facts of an evaluation as text: what its numbers depend on, and what they cost."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from transfer.bootstrap import METRIC_TITLES
from transfer.columns import Column
from transfer.results import Result
from transfer.table import Section


def facts(section: Section) -> dict[str, str]:
    """Return what the numbers depend on, by name."""
    columns, first = section.columns, section.first
    results = [result for column in columns for result in column.results]
    used = f"{first.n_train:,} images of {first.train}"
    if first.fraction < 1:
        used += f", of which the labels of {first.n_fit + first.n_holdout:,} are used"
    taught = f"; {first.n_fit:,} to learn from, {first.n_holdout:,} held out, which " if first.n_holdout else ""
    if taught:
        taught += "choose nothing" if first.mode == "fine-tuned" else "choose"
    shared = max(result.n_shared for result in results)
    cells = [cell for column in columns for cell in column.cells.values()]
    spread = (
        "standard deviation over seeds"
        if any(cell.over_seeds is not None for cell in cells)
        else "standard deviation over draws of the training images"
        if any(cell.over_samples is not None for cell in cells)
        else ""
    )
    if first.mode == "fine-tuned":
        views = {
            "View": _join(f"at {r.view_size} pixels" if r.view_size else "at its own size" for r in results),
            "Head": _join(row.pooling for result in results for row in result.rows),
            "Precision": _join(result.precision for result in results),
        }
    else:
        views = {
            "View": f"the middle square, {100 * first.view_ratio:.4g} % of the shorter side, at "
            + _join(f"{result.view_size} x {result.view_size} pixels" for result in results),
            "Features": _join(f"pooled by {row.pooling}" for result in results for row in result.rows),
            "Precision": _join(f"{result.precision}, features kept as {result.storage}" for result in results),
        }
    named = {
        "Protocol": f"{first.protocol}: {first.about}",
        "Number": f"{METRIC_TITLES[first.metric]}, in percent, on {first.n_test:,} test images",
        "In brackets": first.interval,
        "After \N{PLUS-MINUS SIGN}": spread,
        "Test": f"{first.n_test:,} images of {first.test}, {len(first.classes):,} classes; "
        f"SHA-256 {first.test_digest[:12]}" + (f"; also training images: {shared:,}" if shared else ""),
        "Training": f"{used}; SHA-256 {first.train_digest[:12]}{taught}",
        "Split": _join(f"{result.split} (SHA-256 {result.split_sha256[:12]})" for result in results),
        "Seeds": columns[0].seeds
        if len({column.seeds for column in columns}) == 1
        else _join(f"{column.label}: {column.seeds}" for column in columns),
        "Networks": _join(
            f"{column.label}: {column.first.network.kind} {column.first.network.backbone}"
            + (f", step {column.first.network.step:,}" if column.first.network.step else "")
            for column in columns
        ),
        **views,
        "Device": _join(result.cost.device for result in results),
    }
    return {name: text for name, text in named.items() if text}


def cost(column: Column, result: Result) -> dict[str, str]:
    """Return the cost of one result, as a line of a table."""
    took = result.cost
    return {
        "network": column.label,
        "mode": result.mode,
        "seed": str(result.network.seed),
        "evaluation_seed": str(result.seed),
        "weights": result.network.weights[:8],
        "time": _duration(took.seconds),
        "extraction": _duration(took.extraction_seconds),
        "speed": f"{took.images_per_second:,.0f}",
        "memory": _size(took.peak_bytes),
        "cache": _size(took.cache_bytes),
    }


def provenance(results: Sequence[Result]) -> dict[str, str]:
    """Return the code, the versions and the files of results."""
    versions = dict.fromkeys(f"{name} {version}" for result in results for name, version in result.versions.items())
    return {
        "Code": _join(f"SHA-256 {result.code[:12]}" for result in results),
        "Versions": ", ".join(versions),
        "Files": _join(PurePath(result.file).name for result in results),
    }


def _join(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(words))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def flatten_settings(settings: dict[str, Any], group: str = "") -> dict[str, str]:
    """Return settings by name, as text; a setting in a group is called "group.name"."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict) and value
        texts |= flatten_settings(value, f"{group}{name}.") if inner else {f"{group}{name}": _text(value)}
    return texts


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value in ("", {}) else str(value)
