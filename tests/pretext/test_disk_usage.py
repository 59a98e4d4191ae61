"""What is said of the disk beforehand against what real runs then wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import settings
from torch import nn

from pretext.disk_usage import checkpoint_size, file_size, pretrain_disk
from pretext.engine.checkpoint import checkpoint_bytes
from pretext.engine.device import ComputeConfig
from pretext.engine.trainer import Trainer
from pretext.errors import UserError
from pretext.pretrain import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_file


def taken(folder: Path, pattern: str = "**/*") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


SGD = {"steps": 5, "batch_size": 8, "warmup": 1, "optimizer": "sgd"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"training": SGD},
        {"training": {**SGD, "betas": [0.0, 0.9], "nesterov": False}},
        {"method": {"name": "supervised"}},
        {"backbone": {"name": "resnet18"}, "training": {**SGD, "optimizer": "adamw"}},
        {"objective": {"name": "regression", "stride": 4}, "training": {**SGD, "steps": 3, "optimizer": "adam"}},
    ],
)
def test_it_is_what_a_real_run_wrote(changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(**changed)
    monkeypatch.setattr(Trainer, "step", _refused)
    said = pretrain_disk(asked)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert not pretrain(tmp_path / "run", asked)
    assert said.lasting == pytest.approx(taken(tmp_path / "run"), rel=0.05)
    assert said.lasting + said.passing == sum(size for _, size in said.parts)
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert said.passing == pytest.approx(kept[-1].stat().st_size, rel=0.01)
    assert said.parts[0][1] == pytest.approx(taken(tmp_path / "run", "checkpoints/*.pt"), rel=0.01)


def _refused(*given: Any) -> None:
    raise AssertionError("a step was computed")


@pytest.mark.slow
def test_at_the_peak_there_is_one_checkpoint_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, most = settings(), [0]
    real = Path.replace

    def watched(self: Path, target: Path) -> Path:
        most[0] = max(most[0], taken(tmp_path / "run", "checkpoints/*"))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    assert not pretrain(tmp_path / "run", asked)
    said = pretrain_disk(asked)
    assert said.parts[0][1] + said.passing == pytest.approx(most[0], rel=0.01)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_checkpoint_is_sized_by_shapes(optimizer: str, ema: float) -> None:
    class Net(nn.Sequential):
        def loss(self, rgb: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self(rgb.float()).mean()

    asked = settings(training={"steps": 5, "batch_size": 2, "warmup": 1, "optimizer": optimizer, "ema": ema})
    network = Net(nn.Conv2d(3, 64, 9), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 8))
    network[2].bias.requires_grad_(False)
    place = ComputeConfig(torch.device("cpu"), "fp32", 0)
    trainer = Trainer(network, asked.training, asked.machine, place, 0)
    for begun in (False, True):
        real = len(checkpoint_bytes({**trainer.state(), "settings": {"a": 1}}))
        assert checkpoint_size(network, asked.training, {"settings": {"a": 1}}, begun) == pytest.approx(real, rel=0.01)
        trainer.step(torch.zeros(2, 3, 20, 20, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


def test_shared_memory_counts_once_and_meta_tensors_as_much_as_others() -> None:
    large = torch.zeros(1000, 1000)
    both = {"one": large, "other": large.T, "meta": [torch.zeros(500, 500, device="meta")]}
    real = len(checkpoint_bytes({**both, "meta": [torch.zeros(500, 500)]}))
    assert file_size(both) == pytest.approx(real, rel=0.001)


@pytest.mark.slow
def test_the_paper_s_network_is_answered_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings_file(PretrainSettings, Path(__file__).parents[2] / "configs/pretext/paper_vgg.yaml")
    asked.data.source = "bundled"
    monkeypatch.setattr(Trainer, "step", _refused)
    said = pretrain_disk(asked)
    # 32.2 million weights, and two moments of each.
    assert said.passing == pytest.approx(3 * 4 * 32.2e6, rel=0.01)
    assert said.lasting > 2 * said.passing


def test_what_pretrain_would_refuse_is_refused() -> None:
    for changed in ({"data": {"source": "no/such/folder"}}, {"backbone": {"name": "resnet-81"}}):
        with pytest.raises(UserError):
            pretrain_disk(settings(**changed))
