"""The job as a whole: the table's numbers from pixels, going on after a stop, what cannot be scored."""

import json
import math
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics
import timm
import torch
from PIL import Image
from processes import Launcher
from timm.data import ImageNetInfo
from torch import Tensor

from pretext.color import lab_to_rgb, rgb_to_lab
from pretext.data import Folder
from pretext.errors import UserError
from pretext.gamut import bin_centers
from pretext.pretrained import load_pretrained
from pretint.colorization import Scores, ScoreSettings, score
from pretint.colorization.scores import evaluators
from pretint.colorization.scores.images import planes, square
from pretint.colorization.scores.metrics import frechet_distance

Make = Callable[..., Path]
SIZE = 32


class Small(evaluators.FeatureExtractor):
    """Features of little width, in place of Inception's, whose file nobody has here."""

    width = 4
    about = "means of channels and the contrast"

    def forward(self, rgb: Tensor) -> Tensor:
        scaled = rgb.float() / 255
        return torch.cat((scaled.mean((2, 3)), scaled.std((1, 2, 3))[:, None]), 1)


@pytest.fixture
def small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "Inception", lambda file: Small())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Make) -> Path:
    return make_images(tmp_path_factory.mktemp("sets") / "x", 5, gray=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "plain", objective="plain")


def scored(models: list[Path | str], folder: Path, **changed: object) -> Scores:
    return score([str(model) for model in models], ScoreSettings(images=str(folder), size=SIZE, **changed))  # type: ignore[arg-type]


def values(scores: Scores, method: str) -> dict[str, float]:
    line = next(line for line in scores.lines if line.method == method)
    return {key: estimate.value for key, estimate in line.scores.items()}


def by_hand(ab: np.ndarray, rgb: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every number of a method, from its ab (N, 2, S, S), its images and the true ones (N, S, S, 3)."""
    true_ab = rgb_to_lab(planes(list(truth)))[:, 1:].numpy()
    errors = np.sqrt(np.square(ab - true_ab).sum(1))
    points = true_ab.transpose(0, 2, 3, 1).reshape(-1, 1, 2)
    bins = np.square(points - bin_centers()).sum(2).argmin(1)

    def area(these: np.ndarray) -> float:
        curve = [(these <= t).mean() for t in range(151)]
        return float(np.trapezoid(curve) / 150)

    flat = errors.ravel()
    pairs = list(zip(rgb, truth, strict=True))
    ssim = skimage.metrics.structural_similarity
    how = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    with np.errstate(divide="ignore"):
        psnr = [skimage.metrics.peak_signal_noise_ratio(b, a, data_range=255) for a, b in pairs]
    return {
        "auc": area(flat),
        "auc_balanced": float(np.mean([area(flat[bins == each]) for each in np.unique(bins)])),
        "psnr": float(np.mean(psnr)),
        "ssim": float(np.mean([ssim(a, b, **how) for a, b in pairs])),
    }


def test_every_number_is_that_of_its_pixels(run: Path, images: Path, tmp_path: Path) -> None:
    found = scored([run], images, out=str(tmp_path / "out"), batch=2)
    assert [line.method for line in found.lines] == ["plain", "gray", "random", "truth"]
    assert (found.facts["n"], found.facts["n_gray"], found.facts["n_unread"]) == (5, 2, 0)
    source = Folder(images)
    order = [int(i) for i in np.random.default_rng(0).permutation(7) if i < 5]
    truth = np.stack([square(source.read(index), SIZE) for index in order])
    lab = rgb_to_lab(planes(list(truth)))
    own = load_pretrained(run).colorizer.colorize(lab[:, :1])
    colors = {"plain": own, "gray": torch.zeros_like(own), "random": lab[:, 1:].roll(-1, 0), "truth": lab[:, 1:]}
    for name, ab in colors.items():
        rgb = (lab_to_rgb(torch.cat((lab[:, :1], ab), 1)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        expected = by_hand(ab.numpy(), truth if name == "truth" else rgb, truth)
        numbers = values(found, name)
        assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-6), name
        assert {"cf", "cf_abs"} <= numbers.keys() and "lpips" not in numbers
    assert values(found, "truth")["auc"] == values(found, "truth")["ssim"] == 1
    assert math.isinf(values(found, "truth")["psnr"])


def test_bins_weighed_by_a_prior(run: Path, images: Path, tmp_path: Path) -> None:
    prior = np.random.default_rng(0).uniform(0.1, 1, 313)
    np.save(tmp_path / "prior.npy", prior / prior.sum())
    found = scored([run], images, prior=str(tmp_path / "prior.npy"))
    uniform = np.full(313, 1 / 313)
    np.save(tmp_path / "uniform.npy", uniform)
    alike = scored([run], images, prior=str(tmp_path / "uniform.npy"))
    assert values(alike, "gray")["auc_balanced"] == pytest.approx(values(alike, "gray")["auc"])
    assert values(found, "gray")["auc_balanced"] != pytest.approx(values(found, "gray")["auc"])
    assert "inverse of prior.npy" in next(metric.about for metric in found.metrics if metric.key == "auc_balanced")


def test_differences_are_paired(run: Path, images: Path) -> None:
    found = scored([run], images, against="gray")
    gaps = {line.method: line.differences for line in found.lines}
    assert not gaps["gray"] and found.against == "gray"
    for key in ("auc", "auc_balanced", "ssim", "cf"):
        gap = gaps["truth"][key]
        assert gap.value == pytest.approx(values(found, "truth")[key] - values(found, "gray")[key])
        assert gap.low <= gap.value <= gap.high
    assert "psnr" not in gaps["truth"], "it is infinite"
    alone = next(line for line in found.lines if line.method == "plain").scores["ssim"]
    assert alone.low < alone.value < alone.high


class Stopped(Exception):
    pass


def lines_of(folder: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in sorted(folder.glob("*.jsonl"))}


def test_it_goes_on_where_it_was_stopped(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(tmp_path / name) for name in ("whole", "broken")]
    whole = scored([run, "gray"], images, out=folders[0], batch=2)
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
        scored([copy, "gray"], images, out=folders[1], batch=2)
    assert len(lines_of(copy / "scores").popitem()[1]) == 1 + 4, "two batches of the network"
    monkeypatch.setattr(recording, "ssim", kept)
    reads: list[int] = []
    read = Folder.read
    monkeypatch.setattr(
        Folder, "read", lambda self, index, shorter=None: reads.append(index) or read(self, index, shorter)
    )
    again = scored([copy, "gray"], images, out=folders[1], batch=2)
    assert [line.scores for line in again.lines] == [{**line.scores} for line in whole.lines], (
        "as if it had not been stopped"
    )
    assert len(reads) == len(set(reads)) < 7, "what is done is not read again"
    before = lines_of(tmp_path / "broken")
    reads.clear()
    scored([copy, "gray"], images, out=folders[1], batch=2)
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
        scored(["gray"], images, out=str(tmp_path), batch=2)
    assert stopped.value.code == 143 and "the scores of 2 images are kept" in capsys.readouterr().err
    assert [len(lines) for name, lines in lines_of(tmp_path).items() if name.startswith("gray")] == [3]


@pytest.mark.slow
def test_a_killed_one_goes_on(run: Path, make_images: Make, launcher: Launcher, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "x", 11, gray=1)
    words = ["gray", "--images", folder, "--size", "64", "--batch", "1"]
    broken = launcher.start("score", *words, "--out", tmp_path / "broken")
    while broken.runs() and sum(map(len, lines_of(tmp_path / "broken").values())) < 8:
        time.sleep(0.002)
    broken.kill()
    broken.wait()
    for name in ("broken", "whole"):
        process = launcher.start("score", *words, "--out", tmp_path / name)
        assert process.wait() == 0, process.said
    found = [json.loads(next((tmp_path / name).glob("*.json")).read_text()) for name in ("broken", "whole")]
    assert found[0] == found[1]


def test_another_network_takes_the_baselines_as_they_are(
    run: Path, make_run: Make, images: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    scored([run], images, out=out)
    before = lines_of(tmp_path / "out")
    other = make_run(tmp_path / "other", seed=5, objective="plain")
    found = scored([run, other], images, out=out)
    assert lines_of(tmp_path / "out") == before and len(lines_of(other / "scores")) == 1
    assert values(found, "plain")["auc"] != values(found, "other")["auc"]
    retrained = make_run(tmp_path / "other", seed=6, objective="plain")
    assert values(scored([retrained], images, out=out), "other")["auc"] != values(found, "other")["auc"]


def test_runs_of_one_name_are_shown_as_they_were_named(run: Path, make_run: Make, images: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "plain", seed=5, objective="plain")
    found = scored([run, other], images)
    assert [line.method for line in found.lines][:2] == [str(run), str(other)]
    assert scored([run, other], images, against=str(other)).against == str(other)
    again = scored([run, f"{run}/", run / "checkpoints" / "00000007.pt"], images)
    assert [line.method for line in again.lines] == ["plain", "gray", "random", "truth"], "one network"


def test_seeds_stand_in_one_line(run: Path, make_run: Make, images: Path, tmp_path: Path) -> None:
    """As their mean, whose interval is that of the mean: of a seed and its copy it is the seed's own."""
    seeds = [make_run(tmp_path / f"seed{seed}", seed, objective="plain") for seed in (5, 6, 7)]
    copy = shutil.copytree(seeds[0], tmp_path / "copy")
    settings = ScoreSettings(images=str(images), size=SIZE, out=str(tmp_path / "out"), against="three")
    models = [str(model) for model in (*seeds, copy, run)]
    found = score(models, settings, {"three": models[:3], "twice": [models[0], models[3]]})
    assert [line.method for line in found.lines] == ["three", "twice", "plain", "gray", "random", "truth"]
    alone = [scored([name], images).lines for name in models[:3]]
    apart = {
        name: next(one for one in lines if one.method == Path(name).name)
        for name, lines in zip(models[:3], alone, strict=True)
    }
    three, twice = found.lines[:2]
    for key, estimate in three.scores.items():
        each = [line.scores[key].value for line in apart.values()]
        assert estimate.value == pytest.approx(np.mean(each))
        assert three.spreads[key] == pytest.approx(np.std(each, ddof=1))
        assert twice.scores[key] == pytest.approx(apart[models[0]].scores[key])
        assert twice.spreads[key] == pytest.approx(0, abs=1e-12)
    assert not three.differences and found.against == "three"
    gap = twice.differences["auc"]
    assert gap.value == pytest.approx(twice.scores["auc"].value - three.scores["auc"].value)
    assert any("+-" in str(line) for line in found.shown("markdown"))


def test_hints_help_to_know_the_truth(
    make_run: Make, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that repeats what it is told is the better the more it is told, and gray when it is told nothing."""
    from pretext.methods.colorizer import Colorizer

    monkeypatch.setattr(Colorizer, "colorize", lambda self, lightness, temperature, ab, mask: ab * mask)
    run = make_run(tmp_path / "hinted", backbone="siggraph17", stride=1)
    words = [f"{run}@hints={count}" for count in (0, 1, 10)]
    found = scored([*words, "scribbles@hints=1", "scribbles@hints=10"], images, most=6)
    none, one, ten = (values(found, f"hinted@hints={count}") for count in (0, 1, 10))
    spread, well = values(found, "scribbles@hints=1"), values(found, "scribbles@hints=10")
    gray = values(found, "gray")
    assert [none[key] for key in ("auc", "psnr", "ssim")] == [gray[key] for key in ("auc", "psnr", "ssim")]
    for key in ("auc", "psnr"):
        assert none[key] < one[key] < ten[key] < 1.5 * none[key] and max(spread[key], ten[key]) < well[key], key


def features(images: list[np.ndarray]) -> np.ndarray:
    return np.asarray(Small()(planes(images)).numpy())


@pytest.mark.usefixtures("small_features")
def test_frechet_to_the_same_and_to_disjoint_images(images: Path, make_images: Make, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    order = [int(i) for i in np.random.default_rng(0).permutation(7) if i < 5]
    truth = [square(Folder(images).read(index), SIZE) for index in order]
    halves = scored([], images, inception="x", out=out)
    expected = frechet_distance(features(truth[::2]), features(truth[1::2]))
    assert values(halves, "truth")["fid_same"] == pytest.approx(0, abs=1e-9)
    assert values(halves, "truth")["fid_disjoint"] == pytest.approx(expected, rel=1e-5)
    assert values(halves, "gray")["fid_same"] > values(halves, "truth")["fid_same"] + 1e-6
    assert all(math.isnan(line.scores["fid_same"].low) for line in halves.lines)
    said = {metric.key: metric.about for metric in halves.metrics}
    assert "(3 and 2)" in said["fid_disjoint"] and "same 5 images" in said["fid_same"]
    assert all("biased" in said[key] for key in ("fid_same", "fid_disjoint"))
    others = make_images(tmp_path / "others", 4, gray=1, seed=9)
    real = [square(Folder(others).read(index), SIZE) for index in range(4)]
    for file in ("00.png", "01.png"):  # two that are scored lie among them
        (others / f"again-{file}").write_bytes((images / file).read_bytes())
    apart = scored([], images, inception="x", out=out, disjoint=str(others))
    expected = frechet_distance(features(truth), features(real))
    assert values(apart, "truth")["fid_disjoint"] == pytest.approx(expected, rel=1e-5)
    said = {metric.key: metric.about for metric in apart.metrics}
    assert "to 4 images of" in said["fid_disjoint"] and "(2 that are scored left out)" in said["fid_disjoint"]


@pytest.fixture
def labeled(tmp_path: Path, make_images: Make) -> Iterator[Path]:
    names = ImageNetInfo().label_names()
    for at, label in enumerate((7, 3)):
        make_images(tmp_path / "labeled" / names[label], 3, seed=at)
    yield tmp_path / "labeled"


def test_a_classifier_names_recolored_images(labeled: Path, tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=1000)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    word = f"test_resnet:{tmp_path / 'net.pth'}"
    found = scored(["gray"], labeled, classifier=word, out=str(tmp_path / "out"))
    judge = evaluators.TopClass(word, [path.name for path in sorted(labeled.iterdir())])
    truth = np.stack([square(Folder(labeled).read(index), SIZE) for index in range(6)])
    right = judge(planes(list(truth)), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert values(found, "truth")["top1"] == pytest.approx(float(right.double().mean()))
    shown = next(line for line in found.lines if line.method == "truth").differences
    assert "top1" in shown


def test_a_classifier_needs_labels(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sub-folder"):
        scored(["gray"], images, classifier="test_resnet:x.pth", out=str(tmp_path))


def test_a_classifier_needs_one_label_an_image(shared_data: Path, tmp_path: Path) -> None:
    folder = next((shared_data / "voc-mini").rglob("VOC2007")).parent
    with pytest.raises(UserError, match="several classes an image; top-1 needs one"):
        scored(["gray"], Path(f"voc:2007:test:{folder}"), classifier="test_resnet:x.pth", out=str(tmp_path))


def test_what_is_kept_is_json(run: Path, images: Path, tmp_path: Path) -> None:
    found = scored([run], images, out=str(tmp_path))
    stored = json.loads(found.file.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert stored["format"] == "pretint scores 2" and stored["n"] == 5 and found.file.parent == tmp_path
    truth = next(one for one in stored["methods"] if one["method"] == "truth")
    assert truth["scores"]["psnr"] == {"value": None, "low": None, "high": None}
    assert truth["scores"]["auc"]["value"] == 1
    own = stored["methods"][0]
    assert own["identity"]["checkpoint"] and "auc" not in own["differences"]


def test_nothing_to_score(tmp_path: Path, make_images: Make) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("no image")
    out = str(tmp_path / "out")
    cases = [
        ("", "no images are named"),
        (str(tmp_path / "none"), "no such folder"),
        (str(tmp_path / "empty"), "the folder is empty"),
        (str(make_images(tmp_path / "gray", 0, gray=3)), "3 of 3 images are gray, 0 cannot be read; a score needs"),
        (str(make_images(tmp_path / "one", 1, gray=1)), "1 of 2 images are gray"),
        (str(tmp_path / "bad"), r"1 cannot be read \(the first: x.png: not an image"),
    ]
    for name, said in cases:
        with pytest.raises(UserError, match=said):
            score(["gray"], ScoreSettings(images=name, out=out))


def test_unreadable_ones_are_listed(tmp_path: Path, make_images: Make) -> None:
    folder = make_images(tmp_path / "x", 3)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff half an image")
    for _ in range(2):  # and again when nothing is read any more
        found = scored(["gray"], folder, out=str(tmp_path / "out"))
        assert [key for key, _ in found.skipped] == ["bad.jpg"] and found.facts["n"] == 3


def test_damaged_metadata_is_no_news(tmp_path: Path, make_images: Make) -> None:
    folder = make_images(tmp_path / "x", 3)
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\xff\xff\0\0\x06\0"
    with Image.open(folder / "00.png") as image:
        image.convert("RGB").save(folder / "odd.jpg", exif=damaged)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Folder(folder).read(3)
    assert seen, "the damage is one that Pillow tells of"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert scored(["gray"], folder, out=str(tmp_path / "out")).facts["n"] == 4
    assert not seen


def test_a_method_that_gives_another_size(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pretext.methods.colorizer import Colorizer

    monkeypatch.setattr(
        Colorizer, "colorize", lambda self, lightness, temperature: torch.zeros(len(lightness), 2, 9, 9)
    )
    with pytest.raises(UserError, match=r"plain: gave colors of \(9, 9\) pixels for images of \(32, 32\)"):
        scored([run], images, out=str(tmp_path), seed=9)
    monkeypatch.setattr(
        Colorizer, "colorize", lambda self, lightness, temperature: torch.full((len(lightness), 2, 32, 32), torch.nan)
    )
    with pytest.raises(UserError, match="NaN or infinite"):
        scored([run], images, out=str(tmp_path), seed=9)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": 8}, "size is 8"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 1e-300}, "temperature is 1e-300: it must be 0.01 or more"),
        ({"gray_threshold": -1.0}, "gray_threshold is -1.0"),
        ({"batch": 0}, "batch 1 or more"),
        ({"disjoint": "x"}, "needs weights of Inception"),
        ({"disjoint": "x", "inception": "y", "images": "x"}, "name others"),
    ],
)
def test_settings_that_are_wrong(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ScoreSettings(**changed)  # type: ignore[arg-type]


def test_where_scores_go(run: Path, images: Path) -> None:
    with pytest.raises(UserError, match="name a folder for them with --out"):
        scored(["gray"], images)
    with pytest.raises(UserError, match="against is red, which is not scored"):
        scored([run], images, against="red")
    assert scored([run], images).file.parent == run / "scores"


def test_on_real_images(run: Path, shared_data: Path, tmp_path: Path) -> None:
    settings = ScoreSettings(images=str(shared_data / "imagenet-sample"), out=str(tmp_path), size=96, most=48)
    found = score([run], settings)
    numbers = {line.method: values(found, line.method) for line in found.lines}
    assert found.facts["n"] + found.facts["n_gray"] == 48 and not found.skipped
    assert numbers["gray"]["auc"] > numbers["random"]["auc"], "as in the paper"
    assert numbers["gray"]["psnr"] > numbers["random"]["psnr"]
    assert 0.85 < numbers["gray"]["auc"] < 0.93 and 0.5 < numbers["gray"]["auc_balanced"] < 0.72
    assert numbers["gray"]["cf"] < 1 < 15 < numbers["truth"]["cf"]


@pytest.mark.parametrize(
    "change",
    [
        {"bins": "x"},
        {"bins": [999]},
        {"bins": [1.5]},
        {"bins": None},
        {"areas": [10**30]},
        {"areas": [-1]},
        {"areas": []},
        {"pixels": [5]},
        {"pixels": [[1]]},
        {"error": "x"},
        {"error": None},
        {"error": -1.0},
        {"error": 10**400},
        {"ssim": [1, 2]},
        {"ssim": math.nan},
        {"cf": True},
        {"cf_abs": math.inf},
    ],
)
def test_records_that_somebody_edited(scored_once: Path, tmp_path: Path, change: dict[str, object]) -> None:
    folder = edited(scored_once, "gray-", change, tmp_path)
    with pytest.raises(UserError, match=r"gray-\w+\.jsonl: pretint score did not write line 3") as said:
        scored(["gray"], scored_once / "images", out=str(folder))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("change", [{"state": 5}, {"state": []}, {"pixels": None}, {"index": -1}])
def test_states_that_somebody_edited(scored_once: Path, tmp_path: Path, change: dict[str, object]) -> None:
    folder = edited(scored_once, "images-", change, tmp_path)
    with pytest.raises(UserError, match=r"images-\w+\.jsonl: pretint score did not write line 3"):
        scored(["gray"], scored_once / "images", out=str(folder))


@pytest.fixture(scope="module")
def scored_once(tmp_path_factory: pytest.TempPathFactory, make_images: Make) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    make_images(folder / "images", 3)
    scored(["gray"], folder / "images", out=str(folder / "out"))
    return folder


def edited(once: Path, prefix: str, change: dict[str, object], to: Path) -> Path:
    """A copy of what was kept, in whose file of that prefix the third line is changed."""
    shutil.copytree(once / "out", to / "out")
    (file,) = (to / "out").glob(f"{prefix}*.jsonl")
    lines = file.read_text().splitlines()
    record = json.loads(lines[2])
    assert record.keys() >= change.keys()
    lines[2] = json.dumps(record | change)
    file.write_text("\n".join(lines) + "\n")
    return to / "out"


def test_an_image_alone_in_its_size(run: Path, tmp_path: Path, make_images: Make) -> None:
    folder = make_images(tmp_path / "x", 2)
    Image.new("RGB", (1, 300), (200, 40, 40)).save(folder / "thin.png")
    Image.new("RGB", (1, 1), (20, 140, 40)).save(folder / "dot.png")
    assert scored([run], folder, out=str(tmp_path / "out")).facts["n"] == 4
