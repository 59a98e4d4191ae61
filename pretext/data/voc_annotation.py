"""An annotation of PASCAL VOC: the XML file that says which objects an image shows, and where."""

import codecs
import re
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.parsers import expat

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
