"""Whatever the headers of a tar say, it ends in right images or in one line, soon, and nothing is unpacked."""

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import Shards
from pretext.errors import UserError

BLOCK = 512
HUGE = [2**63 - 1, 2**63 - 512, 2**63, 2**64, 2**62, 2**40, 2**33]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (7, 7, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def base256(size: int) -> bytes:
    return b"\x80" + size.to_bytes(11, "big") if size >= 0 else (256**12 + size).to_bytes(12, "big")


def header(
    name: str = "1.png", size: bytes = b"", kind: bytes = b"0", data: bytes = b"", link: str = "", more: bool = False
) -> bytes:
    """A header of ustar with a sum that is right, and its data."""
    block = bytearray(BLOCK)
    block[:100] = name.encode("utf-8", "surrogateescape")[:100].ljust(100, b"\0")
    block[100:124] = b"0000644\0" * 3
    block[124:136] = (size or b"%011o\0" % len(data)).ljust(12, b"\0")
    block[136:148] = b"%011o\0" % 0
    block[156:157], block[157 : 157 + len(link)], block[257:265] = kind, link.encode(), b"ustar\x0000"
    block[482] = more  # of an old sparse file: another block of its map follows
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % BLOCK)


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    lines = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = next(one for one in range(len(rest), len(rest) + 9) if one == len(rest) + len(str(one)))
        lines += str(length).encode() + rest
    return header("pax", kind=kind, data=lines)


GOOD = header("good.png", data=png())
END = bytes(2 * BLOCK)
SIZES = [base256(-1), base256(-(2**40)), b"-1", b"7" * 12, b"xyz", b"\xff" * 12]
PAX_SIZES = ["9" * 4000, "9" * 5000, str(2**63), str(2**62), "-1", "-512", "1e9", "x", ""]
HOSTILE: dict[str, bytes] = {
    **{
        f"{size} {kind!r} behind {len(before)}": before + header(size=base256(size), kind=kind, data=png())
        for size in HUGE
        for kind in (b"0", b"x", b"g", b"L", b"K", b"S", b"5")
        for before in (b"", GOOD)
    },
    **{f"size {size!r}": GOOD + header(size=size, data=png()) for size in SIZES},
    **{
        f"pax size {size[:20]} {len(size)} {kind!r}": pax({"size": size}, kind) + GOOD + header("b.png", data=png())
        for size in PAX_SIZES
        for kind in (b"x", b"g")
    },
    "pax without end": header("pax", kind=b"x", data=b"99999 path=x") + GOOD,
    "pax of no length": header("pax", kind=b"x", data=b"0 path=x\n") + GOOD,
    "pax in pax": pax({"path": "x"}) * 2000 + GOOD,
    "sparse maps": pax({"GNU.sparse.map": "0," + str(2**62), "GNU.sparse.size": str(2**62)}) + GOOD,
    "sparse 1.0": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**62)}) + GOOD,
    "old sparse without end": header(kind=b"S", more=True) + (bytes(504) + b"\1" + bytes(7)) * 20000,
    "long name cut": header("././@LongLink", size=b"%011o\0" % 5000, kind=b"L", data=b"x" * 100),
}
HARMLESS: dict[str, bytes] = {
    "links and devices": b"".join(
        header(f"{kind.decode()}.png", kind=kind, link="/etc/passwd") for kind in (b"1", b"2", b"3", b"4", b"6")
    ),
    "names": header("../../up.png", data=png())
    + header("/abs.png", data=png())
    + header("a\nb\x1b[31m.png", data=png()),
    "pax name": pax({"path": "../" * 9 + "x\ny.png"}) + header(data=png()),
    "a directory like an image": header("d.png/", kind=b"5"),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def right_or_one_line(path: Path) -> Shards | None:
    try:
        shards = Shards(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    for index in range(len(shards)):
        assert shards.key(index).isprintable()
        if shards.key(index).startswith("good"):
            assert (np.asarray(shards.read(index)) == 7).all()
    return shards


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_lie(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(HOSTILE[name] + END)
    right_or_one_line(path)
    assert sorted(one.name for one in tmp_path.iterdir()) in (["s.tar"], ["cache", "s.tar"]), "nothing is unpacked"


@pytest.mark.parametrize("name", HARMLESS)
def test_members_that_are_odd(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(GOOD + HARMLESS[name] + END)
    shards = right_or_one_line(path)
    assert shards is not None and shards.key(0) == "good"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cache", "s.tar"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_changed_headers(tmp_path: Path, format: int) -> None:
    buffer, draw = io.BytesIO(), random.Random(format)
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"{'long' * 24}/good\u00e9{number}.png")
            info.size = len(png())
            tar.addfile(info, io.BytesIO(png()))
    whole = buffer.getvalue()
    changes: list[Callable[[bytearray], None]] = [
        lambda block: block.__setitem__(slice(124, 136), base256(draw.choice([*HUGE, -1, 1, 5000]))),
        lambda block: block.__setitem__(156, draw.choice(b"xgLKS01235Z")),
        lambda block: block.__setitem__(draw.randrange(BLOCK), draw.randrange(256)),
    ]
    for number in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(12) * BLOCK
            block = data[at : at + BLOCK]
            draw.choice(changes)(block)
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % (sum(block) % 8**6)
            data[at : at + BLOCK] = block
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data[: draw.choice([len(data), draw.randrange(1, len(data))])])
        right_or_one_line(path)
