"""Patterns: what exists is none, also where it is only the beginning of one."""

from pathlib import Path

import pytest

from pretext.data.patterns import find_shards, is_pattern, match_paths, split_existing
from pretext.errors import UserError


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_what_exists_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "scan[1940]/a.tif", "scan[1940]/b[1].tif", "scan1/c.tif", "x*/y?/d.tif", "x1/y1/e.tif")
    monkeypatch.chdir(tmp_path)
    for base in ("", f"{tmp_path}/"):
        matches = {
            "scan[1940]/*.tif": ["scan[1940]/a.tif", "scan[1940]/b[1].tif"],
            "scan[1940]/b[1].tif": ["scan[1940]/b[1].tif"],
            "scan[1940]/b[12].tif": [],
            "scan[12]/*": ["scan1/c.tif"],
            "x*/y?/*": ["x*/y?/d.tif"],
            "x?/y?/*": ["x*/y?/d.tif", "x1/y1/e.tif"],
            "nothing/*": [],
        }
        for pattern, want in matches.items():
            assert match_paths(base + pattern) == [base + one for one in want], pattern
    assert split_existing("/*/x") == ("/", "*/x") and split_existing("*/x") == ("", "*/x")
    assert not is_pattern("scan[1940]/missing.tif") and is_pattern("scan[1940]/*")


def test_shards_in_folders_whose_names_are_like_patterns(tmp_path: Path) -> None:
    put(tmp_path, "set{1..3}[a]/x-000.tar", "set{1..3}[a]/x-001.tar", "set1a/x-000.tar", "x{0,1}.tar", "x0.tar")
    inside = [tmp_path / "set{1..3}[a]" / f"x-00{number}.tar" for number in (0, 1)]
    for rest in ("x-{000..001}.tar", "x-*.tar", "x-00[01].tar"):
        assert find_shards(f"{tmp_path}/set{{1..3}}[a]/{rest}") == inside
    assert find_shards(f"{tmp_path}/x{{0,1}}.tar") == [tmp_path / "x{0,1}.tar"]
    with pytest.raises(UserError, match="1 of 3 shards are missing"):
        find_shards(f"{tmp_path}/set{{1..3}}[a]/x-{{000..002}}.tar")
