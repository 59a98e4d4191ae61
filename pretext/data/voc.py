"""PASCAL VOC 2007 and 2012 as a source with several labels an image: ``voc:2007:trainval:/data/VOCdevkit``.

A folder VOC2007 or VOC2012 as the devkit unpacks it: ``ImageSets/Main/PART.txt`` lists the images, ``JPEGImages``
holds them (with the ending of any image), and ``Annotations`` one XML file each. Nothing else is read, and nothing is
downloaded.
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
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from pretext.data.folder import Files
from pretext.data.formats import KNOWN, ending_of
from pretext.data.scan import Paths
from pretext.errors import UserError

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The 20 classes, in the order of their labels: by name."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}
"""What annotation tools write, in lower case."""
_DECLARED = re.compile(rb"""\A<\?xml[^>]{0,100}?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]{0,40})["']""")
_NO_ENCODINGS = ("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "utf-7")
"""Of Python's: none is what a text file is in, and some take minutes for a hostile one."""
_SUPERSETS = {"gb2312": "gbk"}
"""Tools declare the one, and write characters that only the other has."""

PREFIX = "voc:"
YEARS = ("2007", "2012")
_GRAMMAR = "write voc:YEAR:PART:FOLDER, such as voc:2007:trainval:/data/VOCdevkit"
_LARGEST = 2**20  # bytes: an annotation has some thousand
_LONGEST = 2**24  # bytes: a list has some hundred thousand
_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class Annotated(NamedTuple):
    """An object as its annotation has it."""

    kind: str
    """One of ``CLASSES``."""
    difficult: bool
    corners: tuple[str | None, ...]
    """The texts of ``CORNERS``, unchecked; None where one is missing."""


def read_objects(path: Path, content: bytes) -> list[Annotated]:
    """The objects of an annotation, in its order.

    Read by events, without a tree; a document type, in which alone entities can be declared, is refused. The parts
    of an object (a person's head and hands) have boxes of their own, which are not taken. An encoding that the parser
    does not know (GBK) is Python's of the declared name.

    Args:
        path: of the file, for the errors.
        content: of the file.

    Raises:
        UserError: not XML, not an annotation, or an object without a known class.
    """
    found: list[Annotated] = []
    opened: list[str] = []
    texts: dict[str, str] = {}

    def wrong(what: str) -> NoReturn:
        raise UserError(f"{path}: {what}; is it an annotation of PASCAL VOC?")

    def wanted() -> bool:
        if len(opened) == 3 and opened[1] == "object":
            return opened[2] in ("name", "difficult")
        return len(opened) == 4 and opened[1:3] == ["object", "bndbox"] and opened[3] in CORNERS

    def start(tag: str, _: object) -> None:
        opened.append(tag)
        if opened == ["annotation", "object"]:
            texts.clear()
        elif opened[0] != "annotation":
            wrong(f"it begins with <{tag[:40]}>, not <annotation>")
        elif wanted():
            if tag in texts:
                wrong(f"an object has two <{tag}>")
            texts[tag] = ""

    def text(data: str) -> None:
        if wanted():
            texts[opened[-1]] += data

    def end(_: str) -> None:
        if opened == ["annotation", "object"]:
            kind, difficult = texts.get("name", "").strip(), texts.get("difficult", "").strip()
            if kind not in CLASSES:
                wrong(f"an object is called {kind[:40]!a}, which is none of the 20 classes")
            if difficult.lower() not in _DIFFICULT:
                wrong(f"difficult is {difficult[:40]!a}, which is neither 0 nor 1")
            found.append(Annotated(kind, _DIFFICULT[difficult.lower()], tuple(texts.get(one) for one in CORNERS)))
        opened.pop()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = lambda *_: wrong("it declares a document type, which annotations have not")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    try:
        parser.Parse(_decoded(content), True)
    except (expat.ExpatError, LookupError, ValueError) as problem:  # the latter two: an unknown encoding
        raise UserError(f"{path}: damaged: {problem}; unpack it again") from problem
    return found


def _decoded(content: bytes) -> str | bytes:
    """The text of an annotation whose declared encoding has characters of several bytes; any other as it is.

    Expat itself reads UTF-16 and Latin-1, and asks Python for other encodings of one byte a character. UTF-8 it knows
    by that name alone, and not as ``utf8``.
    """
    if content.startswith(codecs.BOM_UTF8):  # it counts more than what is declared
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


def open_voc(name: str, labeled: bool) -> "Voc | None":
    """A part of PASCAL VOC; None where the name is of another kind.

    Args:
        name: ``voc:YEAR:PART:FOLDER``: 2007 or 2012, a list of ``ImageSets/Main`` (train, val, trainval, test),
            and the folder VOCdevkit, or what holds it, or VOC2007 itself.
        labeled: whether every image must have an annotation.

    Raises:
        UserError: no such year, list or folder; an image of the list is missing; labels are asked for, and an
            annotation is missing or damaged.
    """
    if not name.startswith(PREFIX):
        return None
    source = open_part(name)
    if labeled:
        assert len(source.labels) == len(source), name  # raises where they cannot be had
    return source


def open_part(name: str, task: str = "Main") -> "Voc":
    """A part of PASCAL VOC by the list of a task: as ``open_voc``, without labels.

    Args:
        name: as ``open_voc``; the part is a list of ``ImageSets/TASK``.
        task: ``Main`` (classification and detection) or ``Segmentation``.

    Raises:
        UserError: the name is of another kind, or as ``open_voc``.
    """
    year, part, folder = [*name.removeprefix(PREFIX).split(":", 2), "", ""][:3]
    if not name.startswith(PREFIX) or not part or not folder:
        raise UserError(f"{name}: {_GRAMMAR}")
    if year not in YEARS:
        raise UserError(f"{name}: no such year as {year!r}; take {' or '.join(YEARS)}")
    return Voc(name, _root(name, year, folder, task), year, part, task)


class Voc(Files):
    """A part of PASCAL VOC, in the order of its list: a labeled source. Made by ``open_voc``.

    Args:
        name: as the user wrote it.
        root: the folder VOC2007 or VOC2012.
        year: for the errors.
        part: which list of ``ImageSets/TASK``.
        task: see ``open_part``.

    Raises:
        UserError: no such list, or an image of it is missing.
    """

    def __init__(self, name: str, root: Path, year: str, part: str, task: str = "Main") -> None:
        self.name, self.root, self.year, self.part = name, root, year, part
        self._ids = listed(name, root / "ImageSets" / task, part)
        try:
            files = files_by_stem(root / "JPEGImages", (".jpg", *KNOWN))
        except OSError as problem:
            raise UserError(f"{name}: cannot list {root / 'JPEGImages'}: {problem.strerror}") from problem
        missing = [one for one in self.stems if one not in files]
        if missing:
            raise UserError(
                f"{name}: no file {root / 'JPEGImages' / missing[0]}.jpg: {len(missing):,} of the "
                f"{len(self._ids):,} images that the list names are missing; unpack the {part} images there"
            )
        super().__init__(os.fsencode(root), Paths.of(b"JPEGImages/" + os.fsencode(files[stem]) for stem in self.stems))

    @property
    def classes(self) -> list[str]:
        """The names of the 20 classes, by label."""
        return list(CLASSES)

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """What is in every image: (N, 20); 1 present, 0 absent, -1 not counted: only ``difficult`` ones are there.

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
        """The names of the images, without folder and ending."""
        return [one.decode() for one in self._ids]

    def file(self, index: int) -> Path:
        """The file of image ``index``."""
        return self.root / os.fsdecode(self.path(index))

    @cached_property
    def _annotations(self) -> dict[str, str]:
        try:
            return files_by_stem(self.root / "Annotations", (".xml",))
        except OSError:  # who reads one says so
            return {}

    def objects(self, index: int) -> list[Annotated]:
        """The objects that the annotation of image ``index`` has.

        Raises:
            UserError: it is missing or damaged.
        """
        path = self.root / "Annotations" / self._annotations.get(self.stems[index], f"{self.stems[index]}.xml")
        try:
            content = read_file(path, _LARGEST)
        except FileNotFoundError as problem:
            unpublished = "; of the 2012 test part none were published: take val" if self.year == "2012" else ""
            raise UserError(f"{self.name}: no annotation {path}{unpublished}") from problem
        except (OSError, ValueError) as problem:
            raise UserError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
        return read_objects(path, content)


def _root(name: str, year: str, folder: str, task: str) -> Path:
    """The folder VOC2007 or VOC2012, absolute."""
    own, other = (f"VOC{one}" for one in (year, *(one for one in YEARS if one != year)))
    try:
        given = Path(folder).expanduser().absolute()
        if not given.is_dir():
            raise UserError(f"{name}: no folder {folder}; {_GRAMMAR}")
        for root in (given / own, given / "VOCdevkit" / own, given):
            if (root / "ImageSets" / task).is_dir() and root.name != other:
                return root
    except (OSError, RuntimeError) as problem:  # denied, or ~nobody
        raise UserError(f"{name}: {folder} cannot be reached: {problem}") from problem
    raise UserError(f"{name}: no {own}/ImageSets/{task} in {folder}; give the folder VOCdevkit, with {own} in it")


def listed(name: str, folder: Path, part: str) -> list[bytes]:
    """The names in a list of images, without an ending, in its order."""
    try:
        lists = sorted(path.stem for path in folder.glob("[!.]*.txt"))
    except OSError as problem:
        raise UserError(f"{name}: cannot list {folder}: {problem.strerror}") from problem
    whole = [one for one in lists if one.partition("_")[0] not in CLASSES or one in CLASSES]
    if part not in lists:
        near = difflib.get_close_matches(part, whole, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}: no list {part}.txt in {folder}: there are {', '.join(whole) or 'none'}{meant}")
    path = folder / f"{part}.txt"
    try:
        lines = read_file(path, _LONGEST).removeprefix(codecs.BOM_UTF8).splitlines()
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
    names = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not names:
        raise UserError(f"{path}: the list is empty; take another part")
    for number, one in names:
        if re.fullmatch(rb"\S+\s+-?[01]", one):
            raise UserError(f"{path}: this list is about one class; take one of whole images: {', '.join(whole)}")
        if not _NAME.fullmatch(one):
            raise UserError(f"{path}, line {number}: not the name of an image: {one[:40].decode('ascii', 'replace')!a}")
    ids = [one for _, one in names]
    double, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: {double.decode()} stands in it {times} times; every image counts once")
    return ids


def files_by_stem(folder: Path, endings: Sequence[str]) -> dict[str, str]:
    """Return the names of a folder's files by their names without ending; hidden ones are left out.

    Args:
        folder: what is listed.
        endings: which files, in any case; where several have one stem, the earliest ending, and lower case, wins.

    Raises:
        OSError: it cannot be listed.
    """
    ranked = {ending: rank for rank, ending in reversed(list(enumerate(endings)))}
    names = [name for name in os.listdir(folder) if ending_of(name) in ranked and not name.startswith(".")]  # noqa: PTH208 (a million Paths take seconds)
    names.sort(key=lambda name: (ranked[ending_of(name)], name.swapcase()), reverse=True)
    return {name[: -len(ending_of(name))]: name for name in names}


def read_file(path: Path, most: int) -> bytes:
    """A file of at most ``most`` bytes; ValueError for a larger one, and for what is no file."""
    size = path.stat().st_size
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{size:,} bytes, where some thousand are expected; is it what it says?")
    return content
