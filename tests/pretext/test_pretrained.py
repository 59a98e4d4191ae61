"""Pretrained networks read from checkpoints; what does not fit is refused in one line."""

from pathlib import Path

import pytest
import torch
from colorize_files import write_checkpoint

from pretext.backbones.contract import BackboneSettings
from pretext.errors import UserError
from pretext.pretrained import color_contract, load_pretrained
from pretext.recipe import PretrainSettings, build_colorizer


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    other = build_colorizer(
        PretrainSettings(backbone=BackboneSettings("resnet18")), torch.full((313,), 1 / 313, dtype=torch.float64)
    )
    path = write_checkpoint(tmp_path / "x.pt", model=other.state_dict())
    with pytest.raises(UserError, match="do not fit backbone tiny") as error:
        load_pretrained(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_checkpoint_of_other_colors_is_refused(tmp_path: Path) -> None:
    settings = PretrainSettings()
    contract = color_contract(settings, torch.full((313,), 1 / 313, dtype=torch.float64))
    path = write_checkpoint(tmp_path / "x.pt", color={**contract, "white": "D50"})
    with pytest.raises(UserError, match="white D50; this version needs D65"):
        load_pretrained(path)


@pytest.mark.parametrize("missing", ["settings", "color", "model"])
def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load_pretrained(write_checkpoint(tmp_path / "x.pt", **{missing: None}))
