"""The rows of the ceilings, at sizes that cost nothing; and what they count, against definitions."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import ceiling, matrix_rate, table
from benchmarks.__main__ import keep, record
from benchmarks.images import shards_of
from benchmarks.operations import operations
from benchmarks.paired import Row
from pretext.data.batches import CropSettings
from pretext.errors import UserError

CPU = torch.device("cpu")
ABOUT = {"machine": "m", "cores": 2, "threads": 1, "torch": "t", "images": "p", "rounds": 1, "date": "2026-01-01"}


class _Net(nn.Module):
    """A network whose loss is the sum of its outputs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        out: Tensor = self.layers(rgb.float())
        return out.sum()


class _Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).repeat(1, 8, 1).unflatten(1, (6, 4)).transpose(2, 3) * torch.ones((), requires_grad=True)
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_rate, "_SIDES", {"cpu": (64, 96)})
    matrix_rate.fastest.cache_clear()
    monkeypatch.setattr(ceiling, "_LASTING", 0.01)
    monkeypatch.setattr(ceiling, "_LONGEST", 0.01)


def _sound(row: Row) -> bool:
    numbers = [*(row.ours or ()), *(row.plain or ()), *(row.ratio or ())]
    return bool(numbers) and all(math.isfinite(one) and one > 0 for one in numbers)


def test_operations_are_counted_as_defined() -> None:
    rgb, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    first, grouped, turned, last = 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 8 * 12 // 4, 2 * 64 * 4 * 12 * 6, 2 * 6 * 256 * 5
    network = _Net(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 12, 3, padding=1, groups=4),
        nn.ConvTranspose2d(12, 6, 2, stride=2),
        nn.Flatten(),
        nn.Linear(6 * 256, 5),
    )
    # Forward, and the gradients of weights and of inputs; nobody asks for that of the images.
    assert operations(network, rgb, labels) == 2 * first + 3 * (grouped + turned + last)


def test_attention_counts_as_its_products_whatever_computes_it() -> None:
    rgb, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    product = 2 * 6 * 64 * 64 * 4  # 6 heads, 64 places, 4 channels each; queries by keys, and weights by values
    assert operations(_Net(_Attention()), rgb, labels) == 3 * 2 * product


def test_the_rate_is_operations_over_time(small: None) -> None:
    one = matrix_rate.product(32, "fp32", CPU)
    assert one.operations == 2 * 32**3
    assert 0 < one.rate(CPU) < 1e15
    assert matrix_rate.fastest("fp32", CPU) is matrix_rate.fastest("fp32", CPU)
    found = list(matrix_rate.rows(CPU, 2))
    assert [row.unit for row in found] == ["TFLOP/s"]
    assert _sound(found[0])


def test_a_recipe_gives_its_rows(tmp_path: Path, small: None) -> None:
    asked = ceiling._settings("laptop", shards_of(tmp_path, 8, 48), CPU)
    training = dataclasses.replace(asked.training, batch_size=2)
    crop = CropSettings(32)
    machine = dataclasses.replace(asked.machine, workers=0)
    found = list(
        ceiling.measured("laptop", dataclasses.replace(asked, training=training, crop=crop, machine=machine), False, 1)
    )
    assert [row.unit for row in found] == ["TFLOP/s", "h", "ms"]
    assert all(map(_sound, found))
    share, hours, step = found
    assert share.ours and hours.ours and step.ours and step.ratio and share.ratio
    assert "batch 2," in share.setting and "the recipe's batch is" in share.remark
    assert 0 < step.ratio.low <= step.ratio.high <= 1
    steps = 10_000 * 64 / 2
    assert hours.ours.median == pytest.approx(steps * step.ours.median / 1e3 / 3600)
    assert share.target is None  # a wish for GPUs


def test_settings_are_the_recipes_but_for_what_is_said(tmp_path: Path) -> None:
    paper = ceiling._settings("paper_alexnet", tmp_path, CPU)
    assert (paper.backbone.name, paper.crop.size, paper.objective.stride) == ("alexnet", 180, 8)
    assert (paper.backbone.init, paper.training.batch_size, paper.training.steps) == ("random", 8, 450_000)


def test_a_recipe_that_cannot_be_computed_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    def refused(*_: object) -> None:
        raise UserError("no\nmemory")

    monkeypatch.setattr(ceiling, "measured", refused)
    monkeypatch.setattr(ceiling, "shards_of", lambda *_: tmp_path)
    rows = list(ceiling.rows(CPU, 1, ["laptop"]))
    assert [row.remark for row in rows[1:]] == ["skipped: no memory"]


def test_tables_show_what_the_csv_holds(tmp_path: Path, small: None) -> None:
    rows = [*matrix_rate.rows(CPU, 1), Row("a | b", "s", "t", "ms", None, None, None, 0.5, "why")]
    keep(tmp_path / "m.csv", [record(row, ABOUT) for row in rows])
    assert len(list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))) == 2
    text = table.tables(tmp_path)
    assert "### m, 2 cores" in text and "matrix product" in text
    *_, row, _, remark = text.splitlines()
    assert row == "| a / b (1)<br>s, 1 threads | t |  |  |  | >= 0.5 |" and remark == "1. why"
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.put(page, text)
    assert page.read_text() == f"before\n{table.BEGIN}\n\n{text}\n\n{table.END}\nafter\n"
    page.write_text("none")
    with pytest.raises(UserError, match="has no"):
        table.put(page, text)


def test_the_committed_results_can_be_shown() -> None:
    assert table.tables().startswith("### ")
