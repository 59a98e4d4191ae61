"""Exploring embeddings: what is found against brute force, the tables, and the page in a browser."""

import csv
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import measure_layout, open_page
from evaluations import write_class_images
from html_page import Page
from PIL import Image

import pretint.cli
from pretext.errors import UserError
from transfer import embedding_files
from transfer.embed import EmbedSettings, embed_dataset
from transfer.explore import ExploreSettings, explore, find, project
from transfer.features import nearest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.parametrize("block", [7, 4096])
def test_findings_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_MAX_ROWS", block)
    rng = np.random.default_rng(0)
    vectors = rng.normal(1, 1, (40, 6)).astype(np.float32)
    vectors[[20, 31]] = vectors[3]  # more equal images than neighbors
    vectors[25] = vectors[8] + 0.01
    labels = rng.choice(["a", "b", "c"], 40).tolist()
    found = find(vectors, labels, 2, 0.99)
    centered = vectors - vectors.mean(0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    assert (found.neighbors != np.arange(40)[:, None]).all()
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines, 1)[:, :2], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, found.neighbors, 1), found.cosines, atol=1e-5)
    assert found.groups == [[3, 20, 31], [8, 25]]
    assert found.outliers[0] == int(np.sort(cosines, 1)[:, -2:].mean(1).argmin()) and sorted(found.outliers) == [
        *range(40)
    ]
    for image in range(40):
        first, second = (labels[near] for near in found.neighbors[image])
        assert (image in found.suspects) == (first == second != labels[image])
        assert found.votes.get(image, (first, 1.0)) == (first, 1.0)


def test_a_map_is_inside_its_square_and_the_same_again() -> None:
    for count in (2, 5, 60):
        vectors = np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)
        for by_neighbors in (True, False):
            places = project(vectors, by_neighbors, 3)
            assert places.shape == (count, 2) and places.min() >= 0 and places.max() <= 1
            np.testing.assert_array_equal(places, project(vectors, by_neighbors, 3))


@pytest.fixture
def embedded(tiny_run: Path, tmp_path: Path) -> Path:
    """Embeddings of two classes of eight images; two are copies."""
    images = tmp_path / "images"
    write_class_images(images, 0, counts=(8, 8), side=60)
    (first, *_), (*_, last) = (sorted(folder.iterdir()) for folder in sorted(images.iterdir()))
    shutil.copy(first, last.with_name("copy <b>of&.png"))
    return write(tiny_run, images, tmp_path / "e.npz")


def write(run: Path, images: Path, file: Path, **changed: Any) -> Path:
    chosen = {"precision": "fp32", "device": "cpu", "workers": 0, "cache": str(file.parent / "cache"), **changed}
    embed_dataset(str(run), str(images), EmbedSettings(out=str(file), **chosen))
    return file


def test_the_tables_have_all_findings(embedded: Path) -> None:
    done = explore([str(embedded)], ExploreSettings(similar=0.9999, neighbors=3, device="cpu"))
    out = embedded.parent / "explore"
    assert done.page == out / "index.html" and done.images == 17
    duplicates = rows(out / "duplicates.csv")
    assert {one["key"].split("/")[1] for one in duplicates if one["group"] == "1"} >= {"copy <b>of&.png"}
    assert len(rows(out / "outliers.csv")) == 17
    assert len(rows(out / "labels.csv")) == done.suspects
    copies = {one["key"] for one in duplicates}
    assert len({key.split("/")[0] for key in copies}) == 2, "the copy has the other label"


def test_two_files_are_one_set(embedded: Path, tiny_run: Path) -> None:
    other = write(tiny_run, embedded.parent / "images", embedded.with_name("other.parquet"))
    done = explore([str(embedded), str(other)], ExploreSettings(similar=0.9999, device="cpu"))
    assert done.images == 34 and done.groups >= 16
    for group in range(1, done.groups + 1):
        files = {one["file"] for one in rows(done.page.parent / "duplicates.csv") if one["group"] == str(group)}
        assert files == {"e", "other"}


def test_of_many_images_the_page_shows_some(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = embedding_files.read_embeddings(embedded).facts
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    part = embedding_files.Embeddings(vectors, [f"{at}.png" for at in range(600)], None, facts)
    monkeypatch.setattr("transfer.explore.job.read_embeddings", lambda _: part)
    done = explore([str(embedded)], ExploreSettings(device="cpu", map="pca", points=250, neighbors=3))
    assert "250 of 600 images: all that stand below, and a random sample" in Page(done.page).text
    assert len(rows(done.page.parent / "outliers.csv")) == 600


def test_without_labels_there_are_no_doubts(embedded: Path, tiny_run: Path) -> None:
    images = embedded.parent / "images"
    Image.new("RGB", (40, 40)).save(images / "loose.png")
    done = explore([str(write(tiny_run, images, embedded))], ExploreSettings(device="cpu", map="pca"))
    assert done.suspects is None and not (done.page.parent / "labels.csv").exists()
    assert "Labels in doubt" not in Page(done.page).text and "principal components" in Page(done.page).text


def test_images_that_moved_are_said_or_found(embedded: Path) -> None:
    images = embedded.parent / "images"
    moved = images.rename(embedded.parent / "moved")
    done = explore([str(embedded)], ExploreSettings(device="cpu"))
    assert "no such folder" in Page(done.page).text and "give --images" in Page(done.page).text
    next(moved.rglob("*.png")).unlink()
    done = explore([str(embedded)], ExploreSettings(device="cpu", images=str(moved)))
    assert "1 images are not there any more" in Page(done.page).text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stage": "conv2"}, r"b.npz: its stage is conv2, that of .*e.npz conv5; embed both in the same way"),
        ({"normalize": True}, "its normalized is True"),
        ({"size": 48}, "its size is 48, "),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    changed: dict[str, Any], message: str, embedded: Path, tiny_run: Path
) -> None:
    other = write(tiny_run, embedded.parent / "images", embedded.with_name("b.npz"), **changed)
    with pytest.raises(UserError, match=message):
        explore([str(embedded), str(other)], ExploreSettings(device="cpu"))


def test_another_network_is_named(embedded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, file = embedded.parent / "images", embedded.with_name("b.npz")
    embed_dataset(
        "random:tiny", str(images), EmbedSettings(out=str(file), device="cpu", workers=0, cache=str(file.parent))
    )
    assert pretint.cli.main(["explore", str(embedded), str(file), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "b.npz: its network is of random:tiny (" in line and f"that of {embedded} of run (" in line


def test_numbers_that_are_not_finite_or_too_few_are_refused(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = embedding_files.read_embeddings(embedded)
    for vectors, message in (
        (found.vectors * np.nan, "not all of its numbers are finite"),
        (found.vectors[:1], "1 image;"),
    ):
        part = embedding_files.Embeddings(vectors, found.keys[: len(vectors)], None, found.facts)
        monkeypatch.setattr("transfer.explore.job.read_embeddings", lambda _, part=part: part)
        with pytest.raises(UserError, match=message):
            explore([str(embedded)], ExploreSettings(device="cpu"))


def test_the_page_in_a_browser(embedded: Path, browser: "Browser") -> None:
    page = explore([str(embedded)], ExploreSettings(similar=0.9999, neighbors=3, device="cpu")).page
    for width in (1200, 375):
        assert measure_layout(browser, page, width) == (width, [])
    for width in (1200, 375):
        with open_page(browser, viewport={"width": width, "height": 900}) as opened:
            opened.goto(page.as_uri())
            opened.locator("#points").scroll_into_view_if_needed()
            place = "[canvas.getBoundingClientRect().left + xs[4], canvas.getBoundingClientRect().top + ys[4]]"
            opened.mouse.move(*opened.evaluate(place))
            tip = opened.locator("#tip")
            assert tip.is_visible() and tip.inner_text().startswith("class")
            assert "blob:" in tip.locator(".t").evaluate("box => box.style.backgroundImage")
            opened.mouse.click(*opened.evaluate(place))
            assert opened.locator("#chosen .tile").count() == 4
            opened.fill("#search", "copy <b>of&")
            assert opened.locator("#found").inner_text() == "1 found"
            opened.locator("#legend button").first.click()
            opened.select_option("#color", "none")
            assert not opened.locator("#legend button").count()
            assert opened.locator("#groups .tile").count() >= 2
            assert not opened.locator("b", has_text="of&").count(), "a name is no markup"
