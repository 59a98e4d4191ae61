"""A study on disk: one SQLite file with its images, participants and answers.

Every answer is committed, and synced to the disk, before the server confirms it to the participant.
"""

import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretext.errors import UserError

REAL = -1
"""The index of the real image, instead of that of an algorithm."""

_ORDER, _ALGORITHM = 0, 1  # two random streams of one seed
_OURS = 0x50725475  # PRAGMA application_id
_VERSION = 1
_ACTIVE = 3600.0  # seconds after which a participant who stopped no longer counts for the balance
_PATIENCE = 1.0  # seconds to wait for another program that writes; all other requests wait too
_TIMING_OFF = 0.25  # share of the nominal time; with a larger error a pair was not shown correctly

_SCHEMA = """
CREATE TABLE study (facts TEXT NOT NULL);
CREATE TABLE pair (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE image (pair INTEGER, algorithm INTEGER, png BLOB NOT NULL, PRIMARY KEY (pair, algorithm));
CREATE TABLE participant (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, algorithm INTEGER NOT NULL, vision TEXT NOT NULL,
    joined_at REAL NOT NULL, touched_at REAL NOT NULL, finished_at REAL
);
CREATE TABLE trial (
    participant INTEGER REFERENCES participant(number), number INTEGER, pair INTEGER NOT NULL REFERENCES pair(id),
    fake_first INTEGER NOT NULL, seen_at REAL, answered_at REAL, chose_first INTEGER,
    shown_ms REAL, frames INTEGER, longest_frame_ms REAL, hidden INTEGER, response_ms REAL,
    layout TEXT, side_px REAL, pixel_ratio REAL, PRIMARY KEY (participant, number)
) WITHOUT ROWID;
"""


class StudyTrial(NamedTuple):
    """A trial: one pair of images."""

    pair: int
    """The index of the image."""
    fake_first: bool
    """Whether the colored one is on the left (above, where they are stacked)."""


def draw_trials(seed: int, participant: int, pairs: int, count: int) -> list[StudyTrial]:
    """Draw a participant's trials. They depend only on the arguments.

    Args:
        seed: the seed of the study.
        participant: the number of the participant, from 0.
        pairs: the number of pairs.
        count: the number of trials, practice included; at most ``pairs``, since no pair is seen twice.

    Sides are drawn independently. If they were balanced, a participant who counts could predict the last ones.
    """
    rng = np.random.default_rng((seed, participant, _ORDER))
    order = rng.permutation(pairs)[:count]
    sides = rng.integers(0, 2, count)
    return [StudyTrial(int(pair), bool(side)) for pair, side in zip(order, sides, strict=True)]


def draw_algorithm(seed: int, participant: int, counts: Sequence[int]) -> int:
    """Draw the algorithm that a new participant sees, at random from those that have the fewest participants.

    Args:
        seed: the seed of the study.
        participant: the number of the participant.
        counts: the number of participants of each algorithm so far.
    """
    fewest = [index for index, count in enumerate(counts) if count == min(counts)]
    rng = np.random.default_rng((seed, participant, _ALGORITHM))
    return fewest[int(rng.integers(len(fewest)))]


@dataclass(frozen=True)
class Facts:
    """The facts of a study, which never change."""

    real: str
    algorithms: dict[str, str]
    """Name -> folder, in their order."""
    practice: int
    trials: int
    seconds: float
    size: int
    seed: int
    token: str
    """The secret in the link by which participants join."""

    @property
    def names(self) -> list[str]:
        """The names of the algorithms, in their order."""
        return list(self.algorithms)


class ShownPair(NamedTuple):
    """A browser's report on a trial: how the pair was shown and answered. None if unknown (after a reload)."""

    shown_ms: float | None = None
    frames: int | None = None
    longest_frame_ms: float | None = None
    hidden: bool | None = None
    response_ms: float | None = None
    layout: str | None = None
    side_px: float | None = None
    pixel_ratio: float | None = None


class Participant(NamedTuple):
    """A participant, and the next trial."""

    number: int
    algorithm: int
    trial: int | None
    """The next trial to answer; None if all are answered."""
    seen: bool
    """Whether its pair was shown already."""


class AnswerRow(NamedTuple):
    """An answer, with all that is known about it."""

    participant: int
    vision: str
    algorithm: int
    number: int
    practice: bool
    pair: int
    fake_first: bool
    chose_first: bool
    seen_at: float
    answered_at: float
    shown: ShownPair
    on_time: bool
    """Whether the pair was shown for the right time, in a visible page."""

    @property
    def fooled(self) -> bool:
        """Whether the real image was called fake."""
        return self.fake_first != self.chose_first

    @property
    def counts(self) -> bool:
        """Whether it counts for the fooling rate."""
        return not self.practice and self.on_time and self.vision != "no"


class Store:
    """An open study. Its methods may be called from any thread."""

    def __init__(self, file: Path, connection: sqlite3.Connection) -> None:
        self.file = file
        self._db, self._lock = connection, threading.RLock()
        self._refuses_writes = False
        self.clock: Callable[[], float] = time.time
        """Seconds since 1970."""
        (facts,) = self._db.execute("SELECT facts FROM study").fetchone()
        self.facts = Facts(**json.loads(facts))
        self.names = [name for (name,) in self._db.execute("SELECT name FROM pair ORDER BY id")]
        """The names of the pairs."""

    @classmethod
    def open(cls, file: Path) -> "Store":
        """Open a study that was made before; raises `UserError` if there is none."""
        if not file.is_file():
            raise UserError(f"{file.parent}: no study there")
        connection = None
        try:
            connection = _connect(file)
            if connection.execute("PRAGMA application_id").fetchone()[0] != _OURS:
                raise UserError(f"{file}: no study of pretint; name another folder")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                raise UserError(f"{file}: a study of version {version}; this pretint reads version {_VERSION}")
            return cls(file, connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, sqlite3.Error | TypeError | ValueError):
                raise
            raise UserError(f"{file}: the study cannot be read ({error})") from error

    @classmethod
    def create(cls, file: Path, facts: Facts, pairs: Iterable[tuple[str, list[bytes]]]) -> "Store":
        """Create a study on disk, completely or not at all.

        Args:
            file: its path; an old file is replaced.
            facts: the facts of the study.
            pairs: name and encoded images of each pair: the real one, then one of each algorithm.
        """
        part = file.with_name(f".{file.name}.part")
        parts = [part, *(part.with_name(part.name + ending) for ending in ("-wal", "-shm"))]
        try:
            for leftover in parts:  # of a kill
                leftover.unlink(missing_ok=True)
            part.touch(0o600)  # the links in it are secrets; SQLite gives its other files the same rights
            connection = _connect(part)
            try:
                connection.executescript(
                    f"{_SCHEMA} PRAGMA application_id = {_OURS}; PRAGMA user_version = {_VERSION};"
                )
                connection.execute("BEGIN")
                connection.execute("INSERT INTO study VALUES (?)", (json.dumps(asdict(facts)),))
                for pair, (name, images) in enumerate(pairs):
                    connection.execute("INSERT INTO pair VALUES (?, ?)", (pair, name))
                    rows = [(pair, algorithm, zlib.compress(png)) for algorithm, png in enumerate(images, start=REAL)]
                    connection.executemany("INSERT INTO image VALUES (?, ?, ?)", rows)
                connection.execute("COMMIT")
            finally:
                connection.close()  # after which the log beside it is part of the file
            part.replace(file)
            return cls.open(file)
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{file}: the study cannot be written ({error}); free some disk space, or name another folder"
            ) from error
        finally:
            for leftover in parts:
                leftover.unlink(missing_ok=True)

    def refuse_writes(self) -> None:
        """Refuse all writes from now on: those that wait raise ``sqlite3.Error`` at once."""
        self._refuses_writes = True

    def close(self) -> None:
        """Close the file. No method may be called after it."""
        with self._lock:
            self._db.close()

    def image(self, pair: int, algorithm: int) -> bytes | None:
        """Return an image as it is served, or None; ``algorithm`` may be ``REAL``."""
        rows = self._fetch("SELECT png FROM image WHERE pair = ? AND algorithm = ?", pair, algorithm)
        return zlib.decompress(rows[0][0]) if rows else None

    def join(self, identity: str, vision: str) -> int:
        """Add a participant, and return the number.

        Args:
            identity: the secret in the participant's link.
            vision: whether they see colors normally: yes, no or unsure.
        """
        now = self.clock()
        with self._transaction() as db:
            (number,) = db.execute("SELECT count(*) FROM participant").fetchone()
            counts = [0] * len(self.facts.names)
            taken = "vision != 'no' AND (finished_at IS NOT NULL OR touched_at > ?)"
            for algorithm, count in db.execute(
                f"SELECT algorithm, count(*) FROM participant WHERE {taken} GROUP BY algorithm", (now - _ACTIVE,)
            ):
                counts[algorithm] = count
            algorithm = draw_algorithm(self.facts.seed, number, counts)
            db.execute(
                "INSERT INTO participant VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (number, identity, algorithm, vision, now, now),
            )
            trials = draw_trials(self.facts.seed, number, len(self.names), self.facts.practice + self.facts.trials)
            db.executemany(
                "INSERT INTO trial (participant, number, pair, fake_first) VALUES (?, ?, ?, ?)",
                [(number, index, trial.pair, trial.fake_first) for index, trial in enumerate(trials)],
            )
        return int(number)

    def participant(self, identity: str) -> Participant | None:
        """Return a participant by the secret in the link, or None."""
        rows = self._fetch(
            "SELECT p.number, p.algorithm, t.number, t.seen_at FROM participant p LEFT JOIN trial t "
            "ON t.participant = p.number AND t.answered_at IS NULL WHERE p.id = ? ORDER BY t.number LIMIT 1",
            identity,
        )
        for number, algorithm, trial, seen_at in rows:
            return Participant(number, algorithm, trial, seen_at is not None)
        return None

    def trial(self, participant: int, number: int) -> StudyTrial:
        """Return a trial, which must exist."""
        query = "SELECT pair, fake_first FROM trial WHERE participant = ? AND number = ?"
        ((pair, fake_first),) = self._fetch(query, participant, number)
        return StudyTrial(pair, bool(fake_first))

    def see(self, participant: int, number: int) -> bool:
        """Record that a pair is shown now. Return whether it may be: it is the next, and was not shown before."""
        with self._transaction() as db:
            done = db.execute(
                "UPDATE trial SET seen_at = ? WHERE participant = ? AND number = ? AND seen_at IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM trial b WHERE b.participant = ? AND b.number < ? AND b.answered_at IS NULL)",
                (self.clock(), participant, number, participant, number),
            )
        return done.rowcount == 1

    def answer(self, participant: int, number: int, chose_first: bool, shown: ShownPair) -> bool:
        """Save an answer. Return whether it was valid: the pair was shown, and has no answer yet."""
        now = self.clock()
        with self._transaction() as db:
            reported = ", ".join(f"{name} = ?" for name in shown._fields)
            done = db.execute(
                f"UPDATE trial SET answered_at = ?, chose_first = ?, {reported} "
                "WHERE participant = ? AND number = ? AND seen_at IS NOT NULL AND answered_at IS NULL",
                (now, chose_first, *shown, participant, number),
            )
            if done.rowcount == 1:
                left = "SELECT 1 FROM trial WHERE participant = participant.number AND answered_at IS NULL"
                db.execute(
                    f"UPDATE participant SET touched_at = ?, "
                    f"finished_at = CASE WHEN EXISTS ({left}) THEN NULL ELSE ? END WHERE number = ?",
                    (now, now, participant),
                )
        return done.rowcount == 1

    def fooled(self, participant: int) -> int:
        """Return the number of colored images in scored trials that a participant took for real."""
        query = "SELECT count(*) FROM trial WHERE participant = ? AND number >= ? AND chose_first != fake_first"
        return int(self._fetch(query, participant, self.facts.practice)[0][0])

    def participants(self) -> list[tuple[int, bool]]:
        """Return the algorithm of each participant, and whether they finished."""
        rows = self._fetch("SELECT algorithm, finished_at IS NOT NULL FROM participant ORDER BY number")
        return [(algorithm, bool(finished)) for algorithm, finished in rows]

    def rows(self) -> list[AnswerRow]:
        """Return all answers, practice included, by participant and trial."""
        answers = self._fetch(
            "SELECT p.number, p.vision, p.algorithm, t.number, t.pair, t.fake_first, t.chose_first, t.seen_at, "
            f"t.answered_at, {', '.join(ShownPair._fields)} FROM trial t JOIN participant p "
            "ON p.number = t.participant WHERE t.answered_at IS NOT NULL ORDER BY p.number, t.number"
        )
        nominal = self.facts.seconds * 1000
        rows = []
        for who, vision, algorithm, number, pair, fake_first, chose_first, seen_at, answered_at, *rest in answers:
            shown = ShownPair(*rest)
            shown = shown._replace(hidden=None if shown.hidden is None else bool(shown.hidden))
            on_time = (
                shown.shown_ms is not None
                and abs(shown.shown_ms - nominal) <= _TIMING_OFF * nominal
                and not shown.hidden
                # A browser's time cannot be true if less time passed here.
                and answered_at - seen_at >= (1 - _TIMING_OFF) * self.facts.seconds
            )
            trial = number, number < self.facts.practice, pair, bool(fake_first), bool(chose_first)
            rows.append(AnswerRow(who, vision, algorithm, *trial, seen_at, answered_at, shown, on_time))
        return rows

    def _fetch(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._refuses_writes:
                raise sqlite3.OperationalError("the study is being closed")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # on a full disk SQLite has already rolled back
                    self._db.execute("ROLLBACK")
                raise


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=_PATIENCE)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection
