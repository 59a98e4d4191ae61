"""The job of a study: its settings, its pairs of images, and how it is made or opened, and served.

Images are paired by file name. Their encoding tells nothing of which one is real.
"""

import io
import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from PIL import Image, ImageOps

from pretext.data.folder import Folder
from pretext.engine.progress import progress
from pretext.engine.signals import leave
from pretext.errors import ImageError, UserError
from pretext.files import held_folder
from pretint.apps.turing.results import result_lines
from pretint.apps.turing.store import Facts, Store
from pretint.apps.web.sockets import address_of, bound, check_port, needing_extra
from pretint.colorization.paths import SHEET

_SHAPES_DIFFER = 0.02  # of the sides' ratio: rounding a small image's sides makes so much


class Pair(NamedTuple):
    """A real image and what every algorithm made of it."""

    name: str
    real: int
    """Index in the folder of real images."""
    fakes: list[int]
    """Index in the folder of every algorithm."""


class Pairs:
    """Real images and their colored twins.

    A colored image belongs to the real one whose path it has below its folder, whatever the ending: so
    ``pretint colorize`` writes them. Its contact sheet counts as no image.

    Args:
        real: folder of the real images.
        algorithms: name -> folder of the colored images.

    Raises:
        UserError: a folder cannot be read, two images have one name, or a real image has no twin.
    """

    def __init__(self, real: Path, algorithms: dict[str, Path]) -> None:
        self._folders = [Folder(real), *(Folder(path) for path in algorithms.values())]
        known = _by_stem(self._folders[0], real)
        twins = [_by_stem(folder, path) for folder, path in zip(self._folders[1:], algorithms.values(), strict=True)]
        for (name, path), found in zip(algorithms.items(), twins, strict=True):
            missing = [stem for stem in known if stem not in found]
            if missing:
                raise UserError(
                    f"{path}: {len(missing)} of {len(known)} real images have no colored one of algorithm {name}, "
                    f"the first: {missing[0]}; color them, or take them out of {real}"
                )
        self.pairs = [
            Pair(self._folders[0].key(index), index, [found[stem] for found in twins]) for stem, index in known.items()
        ]
        self.unused = sum(len(found) - len(known) for found in twins)
        """Colored images that have no real one."""

    def __len__(self) -> int:
        return len(self.pairs)

    def encoded(self, pair: Pair, size: int) -> Iterator[bytes]:
        """The real image of a pair and all its fakes, as they are served; raises `ImageError`."""
        images = [folder.read(index) for folder, index in zip(self._folders, [pair.real, *pair.fakes], strict=True)]
        shapes = [image.width / image.height for image in images]
        for folder, index, shape in zip(self._folders[1:], pair.fakes, shapes[1:], strict=True):
            if abs(shape / shapes[0] - 1) > _SHAPES_DIFFER:
                raise UserError(
                    f"{Path(folder.root) / folder.key(index)}: has another shape than the real image {pair.name}; "
                    "it would show another part of it"
                )
        yield from (served(image, size) for image in images)


def served(image: Image.Image, size: int) -> bytes:
    """An image as participants get it: its middle, ``size`` x ``size``, PNG without compression.

    Compressed, a colored image would be smaller than a real one, whose color has more detail. So all
    have the same number of bytes, as long as they have the same size.
    """
    square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _by_stem(folder: Folder, root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for index in range(len(folder)):
        path = PurePosixPath(folder.key(index))
        if str(path) == SHEET:
            continue
        stem = str(path.with_suffix(""))
        if stem in found:
            raise UserError(f"{root}: {folder.key(found[stem])} and {path} have one name; pairs go by it: rename one")
        found[stem] = index
    if not found:
        raise UserError(f"{root}: no image but a contact sheet; give a folder of images")
    return found


FILE = "study.db"
"""The file, in the folder of a study, that holds all of it."""

_LARGEST = 1024
_LONGEST_NAME = 80
_SHORTEST_TOKEN = 12  # tries are not limited
_SEEDS = 2**53  # that JSON can say


class Protocol(NamedTuple):
    """What participants see; see ``TuringSettings``."""

    practice: int = 10
    trials: int = 40
    seconds: float = 1.0
    size: int = 256


@dataclass
class TuringSettings:
    """What a study shows, and where.

    A study that exists is opened by its folder alone; its images, algorithms, protocol and seed stay as they are.

    Args:
        real: folder of the real images.
        algorithm: NAME=FOLDER of every algorithm's colored images, which have the paths of the real ones.
        practice: trials with feedback, which do not count; 10 if none is given.
        trials: scored trials of every participant; 40 if none is given.
        seconds: for which a pair is shown; 1 if none is given.
        size: side of the images, in pixels: the middle of each is cut out square; 256 if none is given.
        seed: of the order of images, their sides, and who sees which algorithm; drawn if none is given, when the
            study is made, so that nobody can compute what they will see.
        host: address to serve on: 127.0.0.1 is this machine alone, 0.0.0.0 all that can reach it.
        port: to serve on; 0 takes one that is free.
        public: address by which participants reach the page if a proxy on this machine stands before it, such as
            https://study.example.org.
        token: of the admin page, of 12 characters or more; empty makes a new one at every start.
        results: only say the results so far, and serve nothing.
    """

    real: str = ""
    algorithm: list[str] = field(default_factory=list)
    practice: int | None = None
    trials: int | None = None
    seconds: float | None = None
    size: int | None = None
    seed: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    public: str = ""
    token: str = ""
    results: bool = False

    def __post_init__(self) -> None:
        asked = self.protocol
        if asked.practice < 0 or asked.trials < 1:
            raise UserError("practice must be at least 0, trials at least 1")
        if not 0.05 <= asked.seconds <= 3600:
            raise UserError(f"seconds is {asked.seconds}: a pair is shown for 0.05 to 3600")
        if not 16 <= asked.size <= _LARGEST:
            raise UserError(f"size is {asked.size}: it must lie in [16, {_LARGEST}]")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}: it must lie in [0, 2^63)")
        check_port(self.port)
        if self.token and len(self.token) < _SHORTEST_TOKEN:
            raise UserError(f"token: give at least {_SHORTEST_TOKEN} characters, or none for a random one")
        if self.public:
            parts = urlsplit(self.public)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
                raise UserError(f"public is {self.public}: give an address such as https://study.example.org")
        self.algorithms()

    @property
    def protocol(self) -> "Protocol":
        """What participants of a new study see."""
        given = {name: getattr(self, name) for name in Protocol._fields}
        return Protocol(**{name: value for name, value in given.items() if value is not None})

    def algorithms(self) -> dict[str, Path]:
        """Name -> folder."""
        found: dict[str, Path] = {}
        for word in self.algorithm:
            name, equals, folder = word.partition("=")
            if not (name.strip() and equals and folder):
                raise UserError(f"algorithm {word}: give NAME=FOLDER")
            if not name.isprintable() or len(name) > _LONGEST_NAME:
                raise UserError(
                    f"algorithm {name[:_LONGEST_NAME]}: a name has at most {_LONGEST_NAME} printable letters"
                )
            if name in found:
                raise UserError(f"algorithm {name}: named twice")
            found[name] = Path(folder)
        return found


def gathered(arguments: Sequence[str]) -> list[str]:
    """Words in which ``--algorithm A=a B=b --algorithm C=c`` may stand, with all of them as settings know a list."""
    rest: list[str] = []
    found: list[str] = []
    taking = False
    for word in arguments:
        if word == "--algorithm":
            taking = True
        elif word.startswith("--algorithm=[") or (taking and word.startswith("[")):
            return list(arguments)  # as YAML writes it
        elif word.startswith("--algorithm="):
            taking = False
            found.append(word.removeprefix("--algorithm="))
        elif taking and "=" in word and not word.startswith("-"):
            found.append(word)
        else:
            taking = False
            rest.append(word)
    return [*rest, f"--algorithm={json.dumps(found)}"] if found else [*rest, *(["--algorithm"] * taking)]


@contextmanager
def opened_study(folder: Path, settings: TuringSettings) -> Iterator[tuple[Store, list[str]]]:
    """The study in a folder, made if there is none, for this process alone; and what there is to say about it.

    Raises:
        UserError: images, pairs or folders are not as they should be; the study is another than the settings say;
            another process serves it.
    """
    file = folder / FILE
    pairs = None if file.exists() else _pairs(folder, settings)  # its complaints come before a folder is made
    if pairs is not None and not folder.exists():
        with suppress(OSError):  # which is said below
            folder.mkdir(0o700, parents=True)  # the links in it are secrets
    with held_folder(folder, "serving this study"):
        if pairs is None:
            store = Store.open(file)
            said: list[str] = []
            _check_same(folder, store.facts, settings)
        else:
            store, said = _make(file, pairs, settings)
        try:
            yield store, said
        finally:
            store.close()


def _pairs(folder: Path, settings: TuringSettings) -> Pairs:
    if not (settings.real and settings.algorithm):
        raise UserError(f"{folder}: no study yet; to make one give --real FOLDER and --algorithm NAME=FOLDER")
    pairs = Pairs(Path(settings.real), settings.algorithms())
    _check_count(len(pairs), settings)
    return pairs


def _make(file: Path, pairs: Pairs, settings: TuringSettings) -> tuple[Store, list[str]]:
    skipped: list[str] = []

    def encoded() -> Iterator[tuple[str, list[bytes]]]:
        with progress("images", len(pairs), "pairs") as advance:
            for pair in pairs.pairs:
                try:
                    images = list(pairs.encoded(pair, settings.protocol.size))
                except ImageError as error:
                    skipped.append(f"skipped, because an image of it cannot be read: {pair.name} ({error})")
                else:
                    yield pair.name, images
                advance(1, "")
            _check_count(len(pairs) - len(skipped), settings)

    facts = Facts(
        real=str(Path(settings.real).resolve()),
        algorithms={name: str(path.resolve()) for name, path in settings.algorithms().items()},
        **settings.protocol._asdict(),
        seed=secrets.randbelow(_SEEDS) if settings.seed is None else settings.seed,
        token=secrets.token_urlsafe(12),
    )
    store = Store.create(file, facts, encoded())
    unused = [f"{pairs.unused} colored images have no real one, and are not shown"] if pairs.unused else []
    return store, [*skipped, *unused]


def _check_count(pairs: int, settings: TuringSettings) -> None:
    practice, trials = settings.protocol[:2]
    needed = practice + trials
    if pairs < needed:
        raise UserError(
            f"{settings.real}: {pairs} pairs, and {needed} trials ({practice} practice, {trials} scored) "
            "need as many: nobody sees one twice; "
            "give more images, or fewer --practice and --trials"
        )


def _check_same(folder: Path, facts: Facts, settings: TuringSettings) -> None:
    """Refuse settings that are given, and are not those of the study."""
    algorithms = {name: str(path.resolve()) for name, path in settings.algorithms().items()}
    asked = {
        "real": (str(Path(settings.real).resolve()) if settings.real else None, facts.real),
        "algorithm": (algorithms or None, facts.algorithms),
        **{name: (getattr(settings, name), getattr(facts, name)) for name in (*Protocol._fields, "seed")},
    }
    for name, (given, kept) in asked.items():
        if given not in (None, kept):
            raise UserError(
                f"{folder}: this study was made with another {name} ({kept}); name another folder for a new study"
            )


Say = Callable[..., None]


def turing(folder: Path, settings: TuringSettings, say: Say) -> None:
    """Make or open the study in a folder, and serve it until Ctrl-C or TERM.

    Args:
        folder: of the study.
        settings: what it shows, and where.
        say: prints lines.

    Raises:
        UserError: see ``opened_study`` and ``bound``.
        KeyboardInterrupt: it was Ctrl-C; the results so far are said.
        SystemExit: it was TERM; likewise.
    """
    if settings.results:  # also while another process serves
        store = Store.open(folder / FILE)
        try:
            say(*_results(store))
        finally:
            store.close()
        return
    with opened_study(folder, settings) as (store, said):
        say(*said)
        with needing_extra("this page"):
            from pretint.apps.turing.pages import study_app
            from pretint.apps.web.security import names_here
            from pretint.apps.web.server import serve
        token = settings.token or secrets.token_urlsafe(16)
        listener = bound(settings.host, settings.port)
        address = address_of(listener, settings.public)
        shown = f"?token={token}" if not settings.token else ""
        say(
            f"participants: {address}/join/{store.facts.token}",
            f"admin:        {address}/admin{shown}",
            "every answer is kept at once; Ctrl-C stops, the same command goes on",
        )
        app = study_app(store, token, address, names_here(settings.host, settings.public))
        ending = serve(app, listener, behind_proxy=bool(settings.public))
        say("", *_results(store))
    leave(ending)


def _results(store: Store) -> list[str]:
    try:
        return result_lines(store)
    except sqlite3.Error as error:
        raise UserError(f"{store.file}: the study cannot be read any more ({error})") from error
