"""Real images of named channels: they train, log, show and export."""

import json
import shutil
from pathlib import Path

import pytest

from pretint.cli import main

KINDS = {
    "sentinel2-4band": ("B1,B2,B3,B4", "[B1, B2, B3]", "{hidden: [B4], codes: 32, drop: 0.3}"),
    "neocortex-3Ch.tiff": ("c1,c2,c3", "[c1]", "{hidden: [c2, c3], codes: 36, colors: {c1: blue}}"),
    "neuron-4Ch.tiff": ("c1,c2,c3,c4", "[c1]", "{hidden: [c2, c3, c4], codes: 24}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_train_log_show_and_export(shared_data: Path, tmp_path: Path, kind: str) -> None:
    names, inputs, arguments = KINDS[kind]
    images, run = shared_data / "multichannel" / kind, tmp_path / "run"
    if images.is_file():
        (tmp_path / "images").mkdir()
        for at in range(3):  # one image has no others to be held out from
            shutil.copy(images, tmp_path / "images" / f"{at}.tif")
        images = tmp_path / "images"
    small = "--training.steps 4 --training.warmup 1 --training.batch_size 4 --crop.size 48 --data.holdout 2 "
    small += "--machine.workers 0 --machine.device cpu --objective.neighbors 5 --scale.images 3"
    argv = ["pretrain", str(run), "--data.source", f"channels:{names}:{images}", "--backbone.inputs", inputs]
    argv += ["--method.name", "cross_channel", "--method.arguments", arguments, *small.split()]
    assert main(argv) == 0
    records = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [extent["name"] for extent in records[0]["channels"]] == names.split(",")
    assert all(extent["low"] < extent["high"] for extent in records[0]["channels"])
    health = [record for record in records if record["kind"] == "health"][-1]
    assert any(key.startswith("error_") for key in health) and health["loss"] > 0
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["00000000.png", "00000004.png"]
    assert "Mean error of" in (run / "report.html").read_text()
    assert main(["export", str(run), str(tmp_path / "net.onnx"), "--format", "onnx"]) == 0
