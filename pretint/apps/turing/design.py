"""The job of a study: its settings, its pairs of images, and how it is made or opened, and served.

Images are paired by file name. Their encoding does not reveal which one is real.
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
from pretext.engine.signals import exit_with
from pretext.errors import ImageError, UserError
from pretext.store import LOCK, lock
from pretint.apps.turing.results import result_lines
from pretint.apps.turing.store import Facts, Store
from pretint.apps.web.sockets import address_of, check_port, open_listener, require_extra
from pretint.colorization.paths import SHEET

FILE = "study.db"
"""The file in the folder of a study that holds the whole study."""

_LARGEST = 1024
_LONGEST_NAME = 80
_SHORTEST_TOKEN = 12  # letters; attempts are not limited
_SEEDS = 2**53  # JSON holds whole numbers up to this exactly
_SHAPES_DIFFER = 0.02  # tolerance of the ratio of the sides, for the rounding of a small image's sides


class ImagePair(NamedTuple):
    """A real image, and the colored image of every algorithm."""

    name: str
    indices: list[int]
    """The index in the folder of real images, and in that of each algorithm."""


class Pairs:
    """The pairs of real and colored images.

    A colored image has the path of its real one below its folder, with any ending, as ``pretint colorize`` writes it.
    The contact sheet is not counted as an image.

    Args:
        real: the folder of the real images.
        algorithms: the folder of each algorithm's colored images, by name.

    Raises:
        UserError: a folder cannot be read, two images have one name, or a real image has no colored one.
    """

    def __init__(self, real: Path, algorithms: dict[str, Path]) -> None:
        self._folders = [Folder(real), *(Folder(path) for path in algorithms.values())]
        reals = _index_by_stem(self._folders[0], real)
        colored = [
            _index_by_stem(folder, path) for folder, path in zip(self._folders[1:], algorithms.values(), strict=True)
        ]
        for (name, path), indices in zip(algorithms.items(), colored, strict=True):
            missing = [stem for stem in reals if stem not in indices]
            if missing:
                raise UserError(
                    f"{path}: {len(missing)} of {len(reals)} real images have no colored one of algorithm {name}, "
                    f"the first: {missing[0]}; color them, or take them out of {real}"
                )
        self.pairs = [
            ImagePair(self._folders[0].key(index), [index, *(indices[stem] for indices in colored)])
            for stem, index in reals.items()
        ]
        self.unused = sum(len(indices) - len(reals) for indices in colored)
        """The number of colored images that have no real one."""

    def __len__(self) -> int:
        return len(self.pairs)

    def encoded(self, pair: ImagePair, size: int) -> Iterator[bytes]:
        """Yield the real image of a pair and all its colored ones, as they are served; raises `ImageError`."""
        images = [folder.read(index) for folder, index in zip(self._folders, pair.indices, strict=True)]
        shapes = [image.width / image.height for image in images]
        for folder, index, shape in zip(self._folders, pair.indices, shapes, strict=True):
            if abs(shape / shapes[0] - 1) > _SHAPES_DIFFER:
                raise UserError(
                    f"{Path(folder.root) / folder.key(index)}: has another shape than the real image {pair.name}; "
                    "it would show another part of the scene"
                )
        yield from (encode_image(image, size) for image in images)


def encode_image(image: Image.Image, size: int) -> bytes:
    """Encode an image for participants: its middle, ``size`` x ``size``, as PNG without compression.

    With compression, a colored image would have fewer bytes than a real one, whose color has more detail. So all
    images of one size have the same number of bytes.
    """
    square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _index_by_stem(folder: Folder, root: Path) -> dict[str, int]:
    indices: dict[str, int] = {}
    for index in range(len(folder)):
        path = PurePosixPath(folder.key(index))
        if str(path) == SHEET:
            continue
        stem = str(path.with_suffix(""))
        if stem in indices:
            raise UserError(f"{root}: {folder.key(indices[stem])} and {path} have one name; pairs go by it: rename one")
        indices[stem] = index
    if not indices:
        raise UserError(f"{root}: no image but a contact sheet; give a folder of images")
    return indices


class StudyProtocol(NamedTuple):
    """The protocol of a study; see ``TuringSettings``."""

    practice: int = 10
    trials: int = 40
    seconds: float = 1.0
    size: int = 256


@dataclass
class TuringSettings:
    """Settings of a study: what it shows, and where it is served.

    A study that exists needs no settings but its folder; its images, algorithms, protocol and seed do not change.

    Args:
        real: the folder of the real images.
        algorithm: NAME=FOLDER of every algorithm's colored images, which have the paths of the real ones.
        practice: the number of trials with feedback, which do not count; by default 10.
        trials: the number of scored trials of every participant; by default 40.
        seconds: the time for which a pair is shown; by default 1.
        size: side of the images, in pixels: a square is cut from the middle of each; by default 256.
        seed: the seed of the order of images, their sides, and which participant sees which algorithm. By default it is
            drawn when the study is made, so that participants cannot compute what they will see.
        host: the address to serve on: with 127.0.0.1 only this machine can open the page, with 0.0.0.0 every machine
            that can reach this one.
        port: the port to serve on; 0 takes a free one.
        public: the address of the page for participants, if a proxy on this machine serves it, such as
            https://study.example.org.
        token: the token of the admin page, 12 characters or more; empty makes a new one at every start.
        results: print the results so far, and serve nothing.
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
        protocol = self.protocol
        if protocol.practice < 0 or protocol.trials < 1:
            raise UserError("practice must be at least 0, trials at least 1")
        if not 0.05 <= protocol.seconds <= 3600:
            raise UserError(f"seconds is {protocol.seconds}: a pair is shown for 0.05 to 3600")
        if not 16 <= protocol.size <= _LARGEST:
            raise UserError(f"size is {protocol.size}: it must lie in [16, {_LARGEST}]")
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
    def protocol(self) -> "StudyProtocol":
        """The protocol of a new study."""
        values = {name: getattr(self, name) for name in StudyProtocol._fields}
        return StudyProtocol(**{name: value for name, value in values.items() if value is not None})

    def algorithms(self) -> dict[str, Path]:
        """Return the folder of each algorithm, by name."""
        folders: dict[str, Path] = {}
        for word in self.algorithm:
            name, equals, folder = word.partition("=")
            if not (name.strip() and equals and folder):
                raise UserError(f"algorithm {word}: give NAME=FOLDER")
            if not name.isprintable() or len(name) > _LONGEST_NAME:
                raise UserError(
                    f"algorithm {name[:_LONGEST_NAME]}: a name has at most {_LONGEST_NAME} printable letters"
                )
            if name in folders:
                raise UserError(f"algorithm {name}: named twice")
            folders[name] = Path(folder)
        return folders


def merge_algorithms(arguments: Sequence[str]) -> list[str]:
    """Merge all of ``--algorithm A=a B=b --algorithm C=c`` among arguments into one list, as the settings need it."""
    rest: list[str] = []
    algorithms: list[str] = []
    in_option = False
    for word in arguments:
        if word == "--algorithm":
            in_option = True
        elif word.startswith("--algorithm=[") or (in_option and word.startswith("[")):
            return list(arguments)  # as YAML writes it
        elif word.startswith("--algorithm="):
            in_option = False
            algorithms.append(word.removeprefix("--algorithm="))
        elif in_option and "=" in word and not word.startswith("-"):
            algorithms.append(word)
        else:
            in_option = False
            rest.append(word)
    if algorithms:
        return [*rest, f"--algorithm={json.dumps(algorithms)}"]
    return [*rest, *(["--algorithm"] * in_option)]


@contextmanager
def open_study(folder: Path, settings: TuringSettings) -> Iterator[tuple[Store, list[str]]]:
    """Open the study in a folder, or make it, for this process alone; yield it and notes for the user.

    Raises:
        UserError: images, pairs or folders are wrong; the settings differ from those of the study; another process
            serves it.
    """
    file = folder / FILE
    pairs: Pairs | None = None
    if not file.exists():
        if not (settings.real and settings.algorithm):
            raise UserError(f"{folder}: no study yet; to make one give --real FOLDER and --algorithm NAME=FOLDER")
        pairs = Pairs(Path(settings.real), settings.algorithms())
        _require_pairs(len(pairs), settings)  # before a folder is made
        if not folder.exists():
            with suppress(OSError):  # the lock reports it
                folder.mkdir(0o700, parents=True)  # the links in it are secrets
    with lock(folder / LOCK, "serving this study"):
        if pairs is None:
            store, notes = Store.open(file), list[str]()
            facts = store.facts
            algorithms = {name: str(path.resolve()) for name, path in settings.algorithms().items()}
            values = {
                "real": (str(Path(settings.real).resolve()) if settings.real else None, facts.real),
                "algorithm": (algorithms or None, facts.algorithms),
                **{name: (getattr(settings, name), getattr(facts, name)) for name in (*StudyProtocol._fields, "seed")},
            }
            for name, (setting, fact) in values.items():
                if setting not in (None, fact):
                    raise UserError(
                        f"{folder}: this study was made with another {name} ({fact}); name another folder for a new "
                        "study"
                    )
        else:
            store, notes = _make(file, pairs, settings)
        try:
            yield store, notes
        finally:
            store.close()


def _make(file: Path, pairs: Pairs, settings: TuringSettings) -> tuple[Store, list[str]]:
    skipped: list[str] = []

    def encode_pairs() -> Iterator[tuple[str, list[bytes]]]:
        with progress("images", len(pairs), "pairs") as advance:
            for pair in pairs.pairs:
                try:
                    images = list(pairs.encoded(pair, settings.protocol.size))
                except ImageError as error:
                    skipped.append(f"skipped, because an image of it cannot be read: {pair.name} ({error})")
                else:
                    yield pair.name, images
                advance(1, "")
            _require_pairs(len(pairs) - len(skipped), settings)

    facts = Facts(
        real=str(Path(settings.real).resolve()),
        algorithms={name: str(path.resolve()) for name, path in settings.algorithms().items()},
        **settings.protocol._asdict(),
        seed=secrets.randbelow(_SEEDS) if settings.seed is None else settings.seed,
        token=secrets.token_urlsafe(12),
    )
    unused = [f"{pairs.unused} colored images have no real one, and are not shown"] if pairs.unused else []
    return Store.create(file, facts, encode_pairs()), [*skipped, *unused]


def _require_pairs(pairs: int, settings: TuringSettings) -> None:
    practice, trials = settings.protocol[:2]
    needed = practice + trials
    if pairs < needed:
        raise UserError(
            f"{settings.real}: {pairs} pairs, and {needed} trials ({practice} practice, {trials} scored) "
            "need as many, because a participant sees each pair once; "
            "give more images, or fewer --practice and --trials"
        )


def turing(folder: Path, settings: TuringSettings, say: Callable[..., None]) -> None:
    """Make or open the study in a folder, and serve it until Ctrl-C or TERM.

    Args:
        folder: the folder of the study.
        settings: what it shows, and where it is served.
        say: prints lines.

    Raises:
        UserError: see ``open_study`` and ``open_listener``.
        KeyboardInterrupt: it was Ctrl-C; the results so far are printed.
        SystemExit: it was TERM; likewise.
    """
    if settings.results:  # also while another process serves
        store = Store.open(folder / FILE)
        try:
            say(*_read_results(store))
        finally:
            store.close()
        return
    with open_study(folder, settings) as (store, notes):
        say(*notes)
        with require_extra("this page"):
            from pretint.apps.turing.pages import study_app
            from pretint.apps.web.security import names_here
            from pretint.apps.web.server import serve
        token = settings.token or secrets.token_urlsafe(16)
        listener = open_listener(settings.host, settings.port)
        address = address_of(listener, settings.public)
        query = f"?token={token}" if not settings.token else ""
        say(
            f"participants: {address}/join/{store.facts.token}",
            f"admin:        {address}/admin{query}",
            "every answer is saved at once; Ctrl-C stops the study, and the same command continues it",
        )
        app = study_app(store, token, address, names_here(settings.host, settings.public))
        ending = serve(app, listener, behind_proxy=bool(settings.public))
        say("", *_read_results(store))
    exit_with(ending)


def _read_results(store: Store) -> list[str]:
    try:
        return result_lines(store)
    except sqlite3.Error as error:
        raise UserError(f"{store.file}: the study cannot be read any more ({error})") from error
