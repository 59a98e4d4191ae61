"""Embeddings: the numbers of the definition, in three formats, from datasets and from images in memory."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import write_class_images
from numpy.typing import NDArray
from PIL import Image
from processes import Launcher
from waits import wait_until

import pretint.cli
from pretext.data import open_dataset
from pretext.data.batches import EvalDataset
from pretext.engine.device import choose_compute
from pretext.errors import UserError
from transfer.embed import EmbedSettings, embed, embed_dataset
from transfer.embedding_files import read_embeddings
from transfer.networks import open_network

FORMATS = (".parquet", ".npz", ".safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of three images; one of them is damaged."""
    write_class_images(tmp_path / "images", 0, counts=(3, 3), side=80)
    damaged = sorted((tmp_path / "images").rglob("*.png"))[1]
    damaged.write_bytes(damaged.read_bytes()[:60])
    return tmp_path / "images"


def settings(tmp_path: Path, **changed: Any) -> EmbedSettings:
    base = {"out": str(tmp_path / "e.npz"), "precision": "fp32", "device": "cpu", "workers": 0}
    return EmbedSettings(**{**base, "cache": str(tmp_path / "cache"), **changed})


def by_definition(run: Path, images: Path, stage: str, size: int = 0) -> dict[str, NDArray[np.float32]]:
    """Key -> the mean of a stage's map, for each image that can be read."""
    network, source = open_network(str(run)), open_dataset(str(images))
    samples = EvalDataset(source, size or network.size_at(1.0), 1.0)
    vectors = {}
    with torch.no_grad():
        for at in range(len(source)):
            if (rgb := samples[at].rgb) is not None:
                vectors[source.key(at)] = network.module(rgb[None])[stage].mean((2, 3))[0].numpy()
    return vectors


@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_has_the_numbers_keys_and_labels(ending: str, tiny_run: Path, images: Path, tmp_path: Path) -> None:
    file = tmp_path / f"e{ending}"
    done = embed_dataset(str(tiny_run), str(images), settings(tmp_path, out=str(file)))
    found, expected = read_embeddings(file), by_definition(tiny_run, images, "conv5")
    assert found.keys == list(expected) and len(found.keys) == 5 == done.rows and len(done.skipped) == 1
    np.testing.assert_allclose(found.vectors, np.stack(list(expected.values())), rtol=1e-4, atol=1e-5)
    assert found.labels == [key.split("/")[0] for key in expected]
    assert (found.facts["stage"], found.facts["dims"], found.facts["skipped"]) == ("conv5", 256, 1)
    assert found.facts["classes"] == sorted(set(found.labels))


def test_stage_pooling_length_and_size_are_chosen(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    embed_dataset(str(tiny_run), str(images), settings(tmp_path, stage="conv3", normalize=True, size=64))
    found = read_embeddings(tmp_path / "e.npz")
    expected = np.stack(list(by_definition(tiny_run, images, "conv3", 64).values()))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)
    embed_dataset(str(tiny_run), str(images), settings(tmp_path, pooling="average:1024"))
    assert read_embeddings(tmp_path / "e.npz").vectors.shape == (5, 1024)


def test_without_labels_there_are_none(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    (images / "loose.png").write_bytes(next(images.rglob("*.png")).read_bytes())  # this one has no class
    for ending in FORMATS:
        file = tmp_path / f"e{ending}"
        embed_dataset(str(tiny_run), str(images), settings(tmp_path, out=str(file)))
        assert read_embeddings(file).labels is None and len(read_embeddings(file).keys) == 6


def test_images_in_memory_have_the_same_vectors(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    embed_dataset(str(tiny_run), str(images), settings(tmp_path))
    found = read_embeddings(tmp_path / "e.npz")
    files = [images / key for key in found.keys]
    pictures = [Image.open(file).convert("RGB") for file in files]
    tensors = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    floats = torch.stack(tensors) / 255
    network = open_network(str(tiny_run))
    for given in (files, pictures, tensors, floats, list(map(str, files))):
        vectors = embed(network, given, settings(tmp_path, out=""))
        np.testing.assert_allclose(vectors, found.vectors, rtol=1e-4, atol=1e-5)
    (images / "damaged").mkdir()
    for file in set(images.rglob("*.png")) - set(files):
        file.unlink()
    np.testing.assert_allclose(embed(str(tiny_run), str(images), settings(tmp_path)), found.vectors, 1e-4, 1e-5)


@pytest.mark.slow
def test_interrupted_it_goes_on_to_the_same_bytes(launcher: Launcher, tiny_run: Path, tmp_path: Path) -> None:
    # Large, so that it lasts until the signal comes.
    words = [
        "embed",
        tiny_run,
        "bundled:test",
        "--size",
        "200",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--cache",
        tmp_path,
    ]
    for ending in FORMATS:
        assert launcher.run(*words, "--out", tmp_path / f"whole{ending}").returncode == 0
    words[-1] = tmp_path / "other"
    process = launcher.start(*words, "--out", tmp_path / "part.npz")
    wait_until(lambda: any((tmp_path / "other").rglob("*")) or not process.runs(), "features are computed")
    process.signal(signal.SIGTERM)
    assert process.wait() in (143, -signal.SIGTERM) and not (tmp_path / "part.npz").exists()
    for ending in FORMATS:
        assert launcher.run(*words, "--out", tmp_path / f"part{ending}").returncode == 0
        assert (tmp_path / f"part{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": ""}, "out is not set: give a file whose name ends in .parquet, .npz, .safetensors"),
        ({"out": "x.csv"}, "out is x.csv: give a file"),
        ({"stage": "conv9"}, "stage: run has no conv9; it has conv1, "),
        ({"pooling": "max"}, "pooling 'max': no such rule"),
        ({"size": -1}, "size is -1"),
    ],
)
def test_wrong_settings_are_one_line(
    changed: dict[str, Any], message: str, tiny_run: Path, images: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = {"out": str(tmp_path / "e.npz"), "cache": str(tmp_path / "cache"), "workers": 0, **changed}
    words = [f"--{name}={value}" for name, value in options.items()]
    assert pretint.cli.main(["embed", str(tiny_run), str(images), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("ending", FORMATS)
def test_files_of_others_are_left_alone_and_damaged_ones_are_said(
    ending: str, tiny_run: Path, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"e{ending}"
    np.savez(tmp_path / "e.npz", [1])
    if ending != ".npz":
        file.write_bytes(b"mine")
    theirs = file.read_bytes()
    with pytest.raises(UserError, match="not a file of embeddings that pretint embed wrote, or damaged"):
        embed_dataset(str(tiny_run), str(images), settings(tmp_path, out=str(file)))
    assert file.read_bytes() == theirs
    file.unlink()
    embed_dataset(str(tiny_run), str(images), settings(tmp_path, out=str(file)))
    content = file.read_bytes()
    for stop in range(0, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:stop])
        with pytest.raises(UserError, match="or damaged"):
            read_embeddings(file)


def test_what_cannot_be_embedded_is_said(tiny_run: Path, tmp_path: Path) -> None:
    network = open_network(str(tiny_run))
    place = choose_compute("cpu")
    assert place.device.type == "cpu"
    for given, message in (
        ([], "no image to embed"),
        ([torch.zeros(4, 8, 8)], r"image 0: a tensor of shape \(4, 8, 8\); give \(3, height, width\)"),
        ([7], "image 0: a int; give Pillow images, files or tensors"),
        ([tmp_path / "no.png"], "no.png: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            embed(network, given, EmbedSettings(device="cpu"))  # type: ignore[arg-type]
