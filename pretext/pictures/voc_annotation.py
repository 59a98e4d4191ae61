"""An annotation of PASCAL VOC: the XML file that says which objects a picture shows, and where."""

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
    of an object (a person's head and hands) have boxes of their own, which are not taken.

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
            kind, difficult = texts.get("name", "").strip(), texts.get("difficult", "0").strip()
            if kind not in CLASSES:
                wrong(f"an object is called {kind[:40]!a}, which is none of the 20 classes")
            if difficult not in ("0", "1"):
                wrong(f"difficult is {difficult[:40]!a}, which is neither 0 nor 1")
            found.append(Annotated(kind, difficult == "1", tuple(texts.get(one) for one in CORNERS)))
        opened.pop()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = lambda *_: wrong("it declares a document type, which annotations have not")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as problem:  # the latter two: an unknown encoding
        raise UserError(f"{path}: damaged: {problem}; unpack it again") from problem
    return found
