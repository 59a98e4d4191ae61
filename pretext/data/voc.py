"""PASCAL VOC 2007 and 2012, with several labels per image: ``voc:2007:trainval:/data/VOCdevkit``.

The folder VOC2007 or VOC2012 has the layout of the devkit: ``ImageSets/Main/PART.txt`` lists the images,
``JPEGImages`` holds them (with the ending of any image), and ``Annotations`` has one XML file for each. Nothing else is
read, and nothing is downloaded.
"""

import codecs
import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pretext.data.folder import Files
from pretext.data.formats import KNOWN, ending_of
from pretext.data.scan import Paths
from pretext.errors import UserError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes, in the order of their labels: by name."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}
"""The values that annotation tools write, in lower case."""
_DECLARED = re.compile(rb"""\A<\?xml[^>]{0,100}?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]{0,40})["']""")
_NO_ENCODINGS = ("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "utf-7")
"""Encodings of Python that are not for text files; a malicious file could make some of them take minutes."""
_SUPERSETS = {"gb2312": "gbk"}
"""Declared encoding -> the encoding that tools really use: a superset."""

PREFIX = "voc:"
YEARS = ("2007", "2012")
_GRAMMAR = "write voc:YEAR:PART:FOLDER, such as voc:2007:trainval:/data/VOCdevkit"
_LARGEST = 2**20  # bytes: an annotation has a few thousand
_LONGEST = 2**24  # bytes: a list has a few hundred thousand
_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class VocObject(NamedTuple):
    """An object in an annotation."""

    kind: str
    """One of ``CLASSES``."""
    difficult: bool
    corners: tuple[str | None, ...]
    """The texts of ``CORNERS``, unchecked; None where one is missing."""


def read_objects(path: Path, content: bytes) -> list[VocObject]:
    """Return the objects of an annotation, in its order.

    A document type is refused, because it could declare entities. The boxes of the parts of an object (a person's head
    and hands) are ignored. Python decodes encodings that the parser does not know (GBK).

    Args:
        path: the file, for messages.
        content: the bytes of the file.

    Raises:
        UserError: it is not XML or not an annotation, or an object has no known class.
    """

    def wrong(what: str) -> NoReturn:
        raise UserError(f"{path}: {what}; give an annotation of PASCAL VOC")

    class NoDoctype(ElementTree.TreeBuilder):
        def doctype(self, *_: object) -> None:
            wrong("it declares a document type, which an annotation must not have")

    try:
        root = ElementTree.fromstring(_decode(content), ElementTree.XMLParser(target=NoDoctype()))
    except (ElementTree.ParseError, LookupError, ValueError) as problem:  # the latter two: an unknown encoding
        raise UserError(f"{path}: damaged: {problem}; unpack it again") from problem
    if root.tag != "annotation":
        wrong(f"it begins with <{root.tag[:40]}>, not <annotation>")
    objects = []
    for element in root.findall("object"):
        texts: dict[str, str] = {}
        for place in ("name", "difficult", *(f"bndbox/{corner}" for corner in CORNERS)):
            for part in element.findall(place):
                if part.tag in texts:
                    wrong(f"an object has two <{part.tag}>")
                texts[part.tag] = part.text or ""
        kind, difficult = texts.get("name", "").strip(), texts.get("difficult", "").strip()
        if kind not in CLASSES:
            wrong(f"an object is called {kind[:40]!a}, which is none of the 20 classes")
        if difficult.lower() not in _DIFFICULT:
            wrong(f"difficult is {difficult[:40]!a}, which is neither 0 nor 1")
        corners = tuple(texts.get(corner) for corner in CORNERS)
        objects.append(VocObject(kind, _DIFFICULT[difficult.lower()], corners))
    return objects


def _decode(content: bytes) -> str | bytes:
    """Return the text of an annotation whose declared encoding has characters of several bytes; else its bytes.

    Expat reads UTF-16 and Latin-1 itself, and uses Python for other encodings of one byte per character. It knows UTF-8
    only by this name, not as ``utf8``.
    """
    if content.startswith(codecs.BOM_UTF8):  # this mark has priority over the declared encoding
        return content.decode("utf-8-sig")
    declared = _DECLARED.match(content)
    if declared is None:
        return content
    name = codecs.lookup(declared[1].decode()).name
    name = _SUPERSETS.get(name, name)
    if name in _NO_ENCODINGS:
        raise LookupError(f"unknown encoding: {name}")
    if name.startswith(("utf-16", "utf-32", "iso8859", "cp125", "ascii", "latin")):
        return content
    return content.decode(name)


def open_part(name: str, task: str = "Main") -> "Voc":
    """Open a part of PASCAL VOC.

    Args:
        name: ``voc:YEAR:PART:FOLDER``: 2007 or 2012, a list of ``ImageSets/TASK`` (train, val, trainval, test), and the
            folder VOCdevkit, or the folder that holds it, or VOC2007 itself.
        task: ``Main`` (classification and detection) or ``Segmentation``.

    Raises:
        UserError: the name is of another kind; there is no such year, list or folder; an image of the list is missing.
    """
    year, part, folder = [*name.removeprefix(PREFIX).split(":", 2), "", ""][:3]
    if not name.startswith(PREFIX) or not part or not folder:
        raise UserError(f"{name}: {_GRAMMAR}")
    if year not in YEARS:
        raise UserError(f"{name}: the year is {year!r}; use {' or '.join(YEARS)}")
    wanted, other = f"VOC{year}", f"VOC{YEARS[1 - YEARS.index(year)]}"
    try:
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            raise UserError(f"{name}: no folder {folder}; {_GRAMMAR}")
        for root in (path / wanted, path / "VOCdevkit" / wanted, path):
            if (root / "ImageSets" / task).is_dir() and root.name != other:
                break
        else:
            raise UserError(
                f"{name}: no {wanted}/ImageSets/{task} in {folder}; give the folder VOCdevkit, with {wanted} in it"
            )
    except (OSError, RuntimeError) as problem:  # denied, or ~nobody
        raise UserError(f"{name}: {folder} cannot be reached: {problem}") from problem
    return Voc(name, root, year, part, task)


class Voc(Files):
    """A labeled source: a part of PASCAL VOC, in the order of its list. ``open_part`` makes it.

    Args:
        name: as the user wrote it.
        root: the folder VOC2007 or VOC2012.
        year: the year, for messages.
        part: the list of ``ImageSets/TASK``.
        task: see ``open_part``.

    Raises:
        UserError: there is no such list, or an image of it is missing.
    """

    def __init__(self, name: str, root: Path, year: str, part: str, task: str = "Main") -> None:
        self.name, self.root, self.year, self.part = name, root, year, part
        self._ids = read_list(name, root / "ImageSets" / task, part)
        try:
            files = files_by_stem(root / "JPEGImages", (".jpg", *KNOWN))
        except OSError as problem:
            raise UserError(f"{name}: cannot list {root / 'JPEGImages'}: {problem.strerror}") from problem
        missing = [stem for stem in self.stems if stem not in files]
        if missing:
            raise UserError(
                f"{name}: no file {root / 'JPEGImages' / missing[0]}.jpg: {len(missing):,} of the "
                f"{len(self._ids):,} images that the list names are missing; unpack the {part} images there"
            )
        super().__init__(os.fsencode(root), Paths.of(b"JPEGImages/" + os.fsencode(files[stem]) for stem in self.stems))

    @property
    def classes(self) -> list[str]:
        """Return the names of the 20 classes, by label."""
        return list(CLASSES)

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """Return the classes in every image: (N, 20); 1 present, 0 absent, -1 not counted: only ``difficult`` objects.

        Raises:
            UserError: an annotation is missing or damaged.
        """
        labels = np.zeros((len(self), len(CLASSES)), np.int8)
        for index, row in enumerate(labels):
            for kind, difficult, _ in self.objects(index):
                at = CLASSES.index(kind)
                row[at] = (row[at] or -1) if difficult else 1
        return labels

    @cached_property
    def stems(self) -> list[str]:
        """Return the names of the images, without folder and ending."""
        return [stem.decode() for stem in self._ids]

    def file(self, index: int) -> Path:
        """Return the file of image ``index``."""
        return self.root / os.fsdecode(self.path(index))

    @cached_property
    def _annotations(self) -> dict[str, str]:
        try:
            return files_by_stem(self.root / "Annotations", (".xml",))
        except OSError:  # reading an annotation raises the error
            return {}

    def objects(self, index: int) -> list[VocObject]:
        """Return the objects in the annotation of image ``index``.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.root / "Annotations" / self._annotations.get(self.stems[index], f"{self.stems[index]}.xml")
        try:
            content = read_file(path, _LARGEST)
        except FileNotFoundError as problem:
            unpublished = "; those of the 2012 test part are not public: use val" if self.year == "2012" else ""
            raise UserError(f"{self.name}: no annotation {path}{unpublished}") from problem
        except (OSError, ValueError) as problem:
            raise UserError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
        return read_objects(path, content)


def read_list(name: str, folder: Path, part: str) -> list[bytes]:
    """Return the names in a list of images, without endings, in its order."""
    try:
        lists = sorted(path.stem for path in folder.glob("[!.]*.txt"))
    except OSError as problem:
        raise UserError(f"{name}: cannot list {folder}: {problem.strerror}") from problem
    parts = [stem for stem in lists if stem.partition("_")[0] not in CLASSES or stem in CLASSES]
    if part not in lists:
        near = difflib.get_close_matches(part, parts, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}: no list {part}.txt in {folder}: there are {', '.join(parts) or 'none'}{meant}")
    path = folder / f"{part}.txt"
    try:
        lines = read_file(path, _LONGEST).removeprefix(codecs.BOM_UTF8).splitlines()
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
    names = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not names:
        raise UserError(f"{path}: the list is empty; use another part")
    for number, line in names:
        if re.fullmatch(rb"\S+\s+-?[01]", line):
            raise UserError(f"{path}: this list is about one class; use one of these: {', '.join(parts)}")
        if not _NAME.fullmatch(line):
            raise UserError(
                f"{path}, line {number}: not the name of an image: {line[:40].decode('ascii', 'replace')!a}"
            )
    ids = [line for _, line in names]
    double, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: it contains {double.decode()} {times} times; list every image once")
    return ids


def files_by_stem(folder: Path, endings: Sequence[str]) -> dict[str, str]:
    """Return the names of a folder's files by their names without ending; hidden ones are left out.

    Args:
        folder: the folder.
        endings: endings of the files, in any case. If several files have the same stem, the first ending counts, and
            lower case before upper case.

    Raises:
        OSError: the folder cannot be listed.
    """
    ranked = {ending: rank for rank, ending in reversed(list(enumerate(endings)))}
    names = [name for name in os.listdir(folder) if ending_of(name) in ranked and not name.startswith(".")]  # noqa: PTH208 (a million Paths take seconds)
    names.sort(key=lambda name: (ranked[ending_of(name)], name.swapcase()), reverse=True)
    return {name[: -len(ending_of(name))]: name for name in names}


def read_file(path: Path, most: int) -> bytes:
    """Return the content of a file of at most ``most`` bytes; ValueError if it is larger or not a file."""
    size = path.stat().st_size
    if not path.is_file():  # reading a pipe would wait
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{size:,} bytes, but a few thousand are expected; unpack it again")
    return content
