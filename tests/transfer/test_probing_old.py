"""The linear probe: the classifier against scikit-learn, the choice on held-out pictures, bad data."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pretext.engine.device import pick_place
from pretext.engine.run import held_run, keep_checkpoint
from pretext.errors import UserError
from pretext.pictures import Bundled
from pretext.pretraining import pretrain
from pretext.recipe import PretrainSettings, build_colorizer, colour_contract, load_pretrained
from pretext.settings import plain, settings_from
from transfer.features import Features, calibrate_batch_norm
from transfer.probing import Classifier, ProbeSettings, Protocol, _held_out, _judge, fit_linear, probe
from transfer.table import probe_lines


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.random.default_rng(0).normal(size=(3, 12))
    features = centres[labels] + 1.5 * rng.normal(size=(count, 12))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_equals_scikit_learn(penalty: float) -> None:
    x, y = data(400, 1)
    mine = fit_linear(x, y, Classifier(torch.zeros(3, 12), torch.zeros(3)), penalty, iterations=500, tolerance=1e-7)
    theirs = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-8, max_iter=5000).fit(x.numpy(), y.numpy())
    probabilities = torch.softmax(x @ mine.weight.T + mine.bias, 1)
    np.testing.assert_allclose(probabilities.numpy(), theirs.predict_proba(x.numpy()), atol=2e-3)


def features_of(x: Tensor, y: Tensor) -> Features:
    return Features({"net": {"stage": x}}, y, [])


def test_the_penalty_is_chosen_on_the_held_out_part_and_the_test_is_not_looked_at() -> None:
    (x, y), (test_x, test_y) = data(60, 1), data(200, 2)
    noise = torch.randn(60, 300, generator=torch.Generator().manual_seed(0))
    x, test_x = torch.cat((x, noise), 1), torch.cat((test_x, torch.zeros(200, 300)), 1)
    protocol = Protocol(penalties=(3.0, 1.0, 1e-6))
    held = _held_out(60, 0.3, seed=0)
    judged = _judge(
        features_of(x, y), features_of(test_x, test_y), "net", "stage", held, 3, protocol, torch.device("cpu")
    )
    shares = []
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    fitted = Classifier(torch.zeros(3, 312), torch.zeros(3))
    for penalty in protocol.penalties:
        fitted = fit_linear(scaled[~held], y[~held], fitted, penalty, 60)
        shares.append(float(fitted.correct(scaled[held], y[held]).float().mean()))
    assert judged.holdout_accuracy == pytest.approx(max(shares))
    assert judged.penalty == protocol.penalties[int(np.argmax(shares))]
    other = _judge(
        features_of(x, y), features_of(test_x, test_y.flip(0)), "net", "stage", held, 3, protocol, torch.device("cpu")
    )
    assert (other.penalty, other.holdout_accuracy) == (judged.penalty, judged.holdout_accuracy)


def test_the_held_out_part_is_a_keyed_choice() -> None:
    held = _held_out(200, 0.1, seed=3)
    assert int(held.sum()) == 20
    assert torch.equal(held, _held_out(200, 0.1, seed=3))
    assert not torch.equal(held, _held_out(200, 0.1, seed=4))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe") / "run"
    values = {
        "crop": {"size": 16},
        "objective": {"prior_pictures": 20, "stride": 4},
        "training": {"steps": 4, "batch_size": 8, "warmup": 1},
        "machine": {"workers": 0},
    }
    assert not pretrain(folder, settings_from(PretrainSettings, values, "test"))
    return folder


def test_a_result_is_complete_and_can_be_recomputed(run: Path) -> None:
    result = probe(run, ProbeSettings(workers=0), Protocol(dims=256, penalties=(0.1, 0.01), iterations=10))
    (path,) = (run / "probes").glob("*.json")
    assert path.name == "bundled-test.19px.seed0.pooled-linear-1.json"
    outcome = json.loads(path.read_text())
    count = outcome["data"]["n_test"]
    assert [row["stage"] for row in outcome["stages"]] == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    for row in outcome["stages"]:
        for network in ("random", "pretrained"):
            packed = np.frombuffer(base64.b64decode(row[network]["correct"]), dtype=np.uint8)
            correct = np.unpackbits(packed, count=count)
            assert row[network]["accuracy"] == correct.mean()
            assert row[network]["low"] <= row[network]["accuracy"] <= row[network]["high"]
    for network in ("random", "pretrained"):
        best = max(outcome["stages"], key=lambda row: row[network]["holdout_accuracy"])
        assert outcome["best"][network] == best["stage"]
    assert result.best_pretrained.name == outcome["best"]["pretrained"]
    title, table, *notes = probe_lines(result)
    assert isinstance(table, Table) and table.row_count == 6
    said = " ".join(map(str, (title, *notes)))
    assert all(part in said for part in ("pooled-linear-1", f"{count:,}", "95%", "seed"))


def test_random_is_the_initialisation_of_the_run(run: Path, tmp_path: Path) -> None:
    """A run that has learnt nothing but its batch-norm statistics is worth exactly as much as at random."""
    settings = load_pretrained(run).settings
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    with held_run(tmp_path, plain(settings)):
        pass
    colorizer = build_colorizer(settings, prior)
    calibrate_batch_norm(colorizer.backbone, Bundled("train"), settings.view_size, pick_place("cpu", workers=0))
    state = {"settings": plain(settings), "colour": colour_contract(settings, prior)}
    keep_checkpoint(tmp_path, {**state, "step": 0, "model": colorizer.state_dict()})
    result = probe(tmp_path, ProbeSettings(workers=0), Protocol(dims=64, penalties=(0.1,), iterations=5))
    for stage in result.stages:
        assert stage.random == stage.pretrained
        assert stage.difference == (0, 0, 0)


def test_bad_data(run: Path, tmp_path: Path, class_folder: Callable[[Path], Path]) -> None:
    train = class_folder(tmp_path / "train")
    with pytest.raises(UserError, match="hold different classes"):
        probe(run, ProbeSettings(train=str(train)))
    with pytest.raises(UserError, match="nowhere"):
        probe(run, ProbeSettings(train=str(tmp_path / "nowhere"), test=str(train)))
    with pytest.raises(UserError, match="no run there"):
        probe(tmp_path, ProbeSettings())
    one = tmp_path / "one"
    (one / "cat").mkdir(parents=True)
    (train / "cat" / "0.png").rename(one / "cat" / "0.png")
    other = tmp_path / "other"
    (other / "cat").mkdir(parents=True)
    (train / "cat" / "1.png").rename(other / "cat" / "1.png")
    with pytest.raises(UserError, match="one class only"):
        probe(run, ProbeSettings(train=str(one), test=str(other)))
    with pytest.raises(UserError, match="the same pictures"):
        probe(run, ProbeSettings(train=str(train), test=str(train)))
