"""Records of scores: a job that was stopped resumes, and no image is scored twice."""

import json
import signal
from pathlib import Path

import pytest
from small_scores import Make, metric_values, score_small
from torch import Tensor

from pretext.data import Folder


class Stopped(Exception):
    pass


def lines_of(folder: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in sorted(folder.glob("*.jsonl"))}


def test_it_goes_on_where_it_was_stopped(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(tmp_path / name) for name in ("whole", "broken")]
    whole = score_small([run, "gray"], images, out=folders[0], batch=2)
    import pretint.colorization.scores.record as recording

    kept, calls = recording.ssim, 0

    def failing(rgb: Tensor, truth: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the second batch, after the first method
            raise Stopped
        return kept(rgb, truth)

    monkeypatch.setattr(recording, "ssim", failing)
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    for path in ("settings.yaml", "checkpoints/00000007.pt"):
        (copy / path).write_bytes((run / path).read_bytes())
    with pytest.raises(Stopped):
        score_small([copy, "gray"], images, out=folders[1], batch=2)
    assert len(lines_of(copy / "scores").popitem()[1]) == 1 + 4, "two batches of the network"
    monkeypatch.setattr(recording, "ssim", kept)
    reads: list[int] = []
    read = Folder.read
    monkeypatch.setattr(
        Folder, "read", lambda self, index, shorter=None: reads.append(index) or read(self, index, shorter)
    )
    again = score_small([copy, "gray"], images, out=folders[1], batch=2)
    assert [line.scores for line in again.lines] == [{**line.scores} for line in whole.lines], (
        "as if it had not been stopped"
    )
    assert len(reads) == len(set(reads)) < 7, "what is done is not read again"
    before = lines_of(tmp_path / "broken")
    reads.clear()
    score_small([copy, "gray"], images, out=folders[1], batch=2)
    assert not reads and lines_of(tmp_path / "broken") == before


def test_an_interrupt_keeps_what_is_scored(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pretint.colorization.scores.record as recording

    kept = recording.ssim

    def asking(rgb: Tensor, truth: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGTERM)
        return kept(rgb, truth)

    monkeypatch.setattr(recording, "ssim", asking)
    with pytest.raises(SystemExit) as stopped:
        score_small(["gray"], images, out=str(tmp_path), batch=2)
    assert stopped.value.code == 143 and "the scores of 2 images are kept" in capsys.readouterr().err
    assert [len(lines) for name, lines in lines_of(tmp_path).items() if name.startswith("gray")] == [3]


def test_another_network_takes_the_baselines_as_they_are(
    run: Path, make_run: Make, images: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    score_small([run], images, out=out)
    before = lines_of(tmp_path / "out")
    other = make_run(tmp_path / "other", seed=5, objective="plain")
    found = score_small([run, other], images, out=out)
    assert lines_of(tmp_path / "out") == before and len(lines_of(other / "scores")) == 1
    assert metric_values(found, "plain")["auc"] != metric_values(found, "other")["auc"]
    retrained = make_run(tmp_path / "other", seed=6, objective="plain")
    assert (
        metric_values(score_small([retrained], images, out=out), "other")["auc"] != metric_values(found, "other")["auc"]
    )


def test_what_is_kept_is_json(run: Path, images: Path, tmp_path: Path) -> None:
    found = score_small([run], images, out=str(tmp_path))
    stored = json.loads(found.file.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored["format"] == "pretint scores 3" and stored["facts"]["n"] == 5 and found.file.parent == tmp_path
    truth = next(one for one in stored["methods"] if one["method"] == "truth")
    assert truth["scores"]["psnr"] == [None, None, None]
    assert truth["scores"]["auc"][0] == 1
    own = stored["methods"][0]
    assert own["identity"]["weights"] and "auc" not in own["differences"]
