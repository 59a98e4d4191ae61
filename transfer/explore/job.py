"""Explore files of embeddings: a page and tables of what they say of the images."""

import base64
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pretext import roles
from pretext.data import open_dataset
from pretext.data.source import ImageDataset
from pretext.engine.device import pick_device
from pretext.engine.progress import progress, say
from pretext.errors import ImageError, UserError
from pretext.false_color import to_photograph
from pretext.files import write_atomically
from transfer.embedding_files import Embeddings, read_embeddings
from transfer.explore.findings import Findings, Floats, find, project
from transfer.report.render import render_page

PAGE = "index.html"
_SIDE = 48  # pixels of a thumbnail
_ACROSS = 16  # thumbnails of an atlas, in both directions
_GROUPS, _OF_GROUP = 40, 8  # near duplicates that the page shows
_LISTED = 48  # outliers and doubtful labels that the page shows
_RANDOM = 12  # images whose neighbors it shows
_QUICK = 20_000  # images up to which t-SNE takes minutes


@dataclass
class ExploreSettings:
    """What is searched for, and what the page shows.

    Args:
        out: folder of the page and the tables; empty: explore, beside the first file.
        images: where the images of the first file lie now, if not where they were embedded: a dataset, see
            docs/data.md.
        neighbors: k, the number of nearest images that are searched.
        similar: cosine, from the mean of all images, from which two images count as near duplicates.
        map: tsne; pca, the first two principal components; auto takes tsne for up to 20,000 images.
        points: the largest number of images that the page shows; of more, those of the findings and a random sample.
        seed: of the map and the sample.
        device: where neighbors are searched: auto (the GPU if there is one), cpu, cuda, ...
    """

    out: str = roles.machine("")
    images: str = roles.machine("")
    neighbors: int = roles.science(10, "[1, 1000]")
    similar: float = roles.science(0.95, "(0, 1]")
    map: Literal["auto", "tsne", "pca"] = roles.science("auto")
    points: int = roles.science(20_000, "[1, 100000]")
    seed: int = roles.seed()
    device: str = roles.machine("auto")

    def __post_init__(self) -> None:
        roles.check_ranges(self)


class Explored(NamedTuple):
    """What ``explore`` wrote and found."""

    page: Path
    images: int
    groups: int
    """Groups of near duplicates."""
    suspects: int | None
    """Images whose label their neighbors contradict; None without labels."""


class _Image(NamedTuple):
    """An image of a file of embeddings."""

    file: int
    key: str
    label: str


def explore(files: Sequence[str], settings: ExploreSettings) -> Explored:
    """Write a page and tables of what embeddings say of their images; of several files also across them.

    Beside the page ``index.html`` these CSV files have all findings: duplicates, outliers, labels (if there are some).

    Args:
        files: files that ``pretint embed`` wrote, with one network and the same settings.
        settings: the settings.

    Raises:
        UserError: a file cannot be read, they are of different networks or settings, there are fewer than two images,
            or the folder cannot be written.
    """
    parts = [read_embeddings(file) for file in files]
    _require_alike(files, parts)
    vectors = np.concatenate([part.vectors for part in parts])
    if len(vectors) < 2:
        raise UserError(f"{files[0]}: {len(vectors)} image; at least two are needed")
    if not np.isfinite(vectors).all():
        raise UserError(f"{files[0]}: not all of its numbers are finite; embed the images again")
    images = [
        _Image(number, key, label)
        for number, part in enumerate(parts)
        for key, label in zip(part.keys, part.labels or [""] * len(part.keys), strict=True)
    ]
    labels = [image.label for image in images] if all(part.labels for part in parts) else None
    findings = find(vectors, labels, settings.neighbors, settings.similar, pick_device(settings.device))
    out = Path(settings.out) if settings.out else Path(files[0]).parent / "explore"
    names = _names(files)
    _write_tables(out, images, findings, names, labels is not None)

    shown, queries = _shown(findings, len(images), settings)
    by_neighbors = settings.map == "tsne" or (settings.map == "auto" and len(shown) <= _QUICK)
    say("the map" + (": t-SNE, which takes some minutes for 10,000 images" if by_neighbors else ""))
    places = project(vectors[shown], by_neighbors, settings.seed)
    atlases, note = _thumbnails(parts, [images[row] for row in shown], settings.images)
    page = render_page(
        Path(__file__).parent / "explore.html.jinja",
        name=" and ".join(names),
        path=", ".join(files),
        facts=parts[0].facts,
        count=len(images),
        shown=len(shown),
        groups=len(findings.groups),
        grouped=sum(map(len, findings.groups)),
        similar=settings.similar,
        suspects=None if labels is None else len(findings.suspects),
        across=len(parts) > 1,
        by_neighbors=by_neighbors,
        note=note,
        script=(Path(__file__).parent / "explore.js").read_text(),
        data=_page_data(images, findings, shown, queries, places, names, labels is not None),
        atlases=atlases,
    )
    write_atomically(out / PAGE, page)
    return Explored(out / PAGE, len(images), len(findings.groups), None if labels is None else len(findings.suspects))


def _require_alike(files: Sequence[str], parts: Sequence[Embeddings]) -> None:
    first = parts[0].facts
    for file, part in zip(files[1:], parts[1:], strict=True):
        for what in ("weights", "stage", "pooling", "normalized", "size"):
            ours, theirs = (facts.get(what) for facts in (first, part.facts))
            if ours != theirs:
                if what == "weights":
                    ours, theirs = (f"of {f.get('network')} ({str(f.get(what))[:8]})" for f in (first, part.facts))
                raise UserError(
                    f"{file}: its {'network is' if what == 'weights' else f'{what} is'} {theirs}, that of {files[0]} "
                    f"{ours}; embed both in the same way"
                )


def _names(files: Sequence[str]) -> list[str]:
    """Return short names of the files, all different."""
    stems = [Path(file).stem for file in files]
    return stems if len(set(stems)) == len(stems) else list(files)


def _write_tables(out: Path, images: Sequence[_Image], findings: Findings, names: Sequence[str], labeled: bool) -> None:
    """Write all findings as CSV."""

    def write(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(header)
        table.writerows(rows)
        write_atomically(out / name, text.getvalue().encode("utf-8", "replace"))

    def of(row: int) -> tuple[str, str, str]:
        return names[images[row].file], images[row].key, images[row].label

    columns = ("file", "key", "label")
    write(
        "duplicates.csv",
        ("group", *columns),
        ((number, *of(row)) for number, group in enumerate(findings.groups, 1) for row in group),
    )
    distance = 1 - findings.cosines.mean(1)
    write("outliers.csv", (*columns, "distance"), ((*of(row), f"{distance[row]:.4f}") for row in findings.outliers))
    if labeled:
        write(
            "labels.csv",
            (*columns, "label of neighbors", "share of neighbors"),
            ((*of(row), *findings.votes[row]) for row in findings.suspects),
        )


def _shown(findings: Findings, count: int, settings: ExploreSettings) -> tuple[NDArray[np.int64], list[int]]:
    """Return the images that the page shows, and those of them whose neighbors it lists."""
    order = np.random.default_rng(settings.seed).permutation(count)
    queries = order[:_RANDOM].tolist()
    listed = [row for group in findings.groups[:_GROUPS] for row in group[:_OF_GROUP]]
    listed += findings.outliers[:_LISTED] + findings.suspects[:_LISTED]
    first = dict.fromkeys([*queries, *findings.neighbors[queries].ravel().tolist(), *listed])
    every = [*first, *(row for row in order.tolist() if row not in first)]
    return np.sort(np.array(every[: max(len(first), settings.points)])), queries


def _thumbnails(parts: Sequence[Embeddings], images: Sequence[_Image], moved: str) -> tuple[list[str], str]:
    """Return atlases of thumbnails as JPEG in base64, in the order of the images; and a note if some are missing."""
    sources: list[tuple[ImageDataset, dict[str, int]] | None] = []
    notes = []
    for number, part in enumerate(parts):
        name = moved if moved and number == 0 else part.facts["images"]
        try:
            source = open_dataset(name)
            sources.append((source, {source.key(index): index for index in range(len(source))}))
        except UserError as error:
            if moved and number == 0:
                raise
            sources.append(None)
            notes.append(f"{error}: no thumbnails of them; give --images")
    atlases, missing = [], 0
    with progress("thumbnails", len(images), "images", done=0) as advance:
        for start in range(0, len(images), _ACROSS**2):
            chosen = images[start : start + _ACROSS**2]
            atlas = Image.new("RGB", (_ACROSS * _SIDE, -(-len(chosen) // _ACROSS) * _SIDE), "#e5e7ea")
            for at, image in enumerate(chosen):
                opened = sources[image.file]
                index = opened[1].get(image.key) if opened else None
                try:
                    if opened is None or index is None:
                        raise ImageError(image.key, "not there")
                    picture = to_photograph(opened[0].read(index, _SIDE)).convert("RGB")
                except ImageError:
                    missing += opened is not None
                    continue
                small = ImageOps.fit(picture, (_SIDE, _SIDE), Image.Resampling.LANCZOS)
                atlas.paste(small, (at % _ACROSS * _SIDE, at // _ACROSS * _SIDE))
            buffer = io.BytesIO()
            atlas.save(buffer, "JPEG", quality=75)
            atlases.append(base64.b64encode(buffer.getvalue()).decode())
            advance(len(chosen), "")
    if missing:
        notes.append(f"{missing:,} images are not there any more, or cannot be read")
    return atlases, "; ".join(notes)


def _page_data(
    images: Sequence[_Image],
    findings: Findings,
    shown: NDArray[np.int64],
    queries: Sequence[int],
    places: Floats,
    names: Sequence[str],
    labeled: bool,
) -> str:
    """Return what the page's script reads, as JSON: images by their number among those shown, -1 for others."""
    number = np.full(len(images), -1, np.int64)
    number[shown] = np.arange(len(shown))
    labels = sorted({image.label for image in images}) if labeled else []
    at = {label: index for index, label in enumerate(labels)}
    of_shown = [images[row] for row in shown]

    def packed(values: Any, dtype: str) -> str:
        return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()

    def numbers(rows: Iterable[int]) -> list[int]:
        return [int(number[row]) for row in rows]

    data = {
        "keys": [image.key for image in of_shown],
        "files": names,
        "labels": labels,
        "file": packed([image.file for image in of_shown], "<u2"),
        "label": packed([at[image.label] for image in of_shown] if labeled else [], "<u4"),
        "places": packed(np.rint(places * 65535), "<u2"),
        "neighbors": packed(number[findings.neighbors[shown]], "<i4"),
        "cosines": packed(np.rint(findings.cosines[shown] * 100), "<i1"),
        "queries": numbers(queries),
        "groups": [numbers(group[:_OF_GROUP]) for group in findings.groups[:_GROUPS]],
        "sizes": [len(group) for group in findings.groups[:_GROUPS]],
        "outliers": numbers(findings.outliers[:_LISTED]),
        "suspects": numbers(findings.suspects[:_LISTED]),
        "votes": [[*findings.votes[row]] for row in findings.suspects[:_LISTED]],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no tag in it ends the script
