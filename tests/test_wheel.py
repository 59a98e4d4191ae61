"""The package as pip installs it: built, installed alone outside the checkout, and used from another folder."""

import configparser
import csv
import email
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow  # builds a wheel, which downloads the build backend

ROOT = Path(__file__).parents[1]
NAMES = {"pretext", "transfer", "slurm", "pretint"}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--wheel-dir", folder], capture_output=True, text=True
    )
    if done.returncode and "hatchling" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip("pip cannot download hatchling")
    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(contents: dict[str, bytes]) -> Message:
    (content,) = (content for name, content in contents.items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(content)


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages of a new environment that holds the wheel alone.

    The dependencies, gigabytes, are read from the environment that runs the tests. A path file names their folder; the
    path files in that folder, such as that of an editable pretint, are not read then.
    """
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (folder,) = environment.glob("lib/python*/site-packages")
    install = ["install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", *install], check=True, env=_clean()
    )
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (folder / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Run:
    """Run a program of the new environment in a folder that has nothing to do with the checkout."""

    def call(program: str, *words: object) -> str:
        command = [site.parents[2] / "bin" / program, *map(str, words)]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**_clean(), "PRETINT_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def _clean() -> dict[str, str]:
    """The variables of this process, without what leads Python to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_the_wheel_owns_the_import_names_and_no_more(contents: dict[str, bytes]) -> None:
    (record,) = (content.decode() for name, content in contents.items() if name.endswith(".dist-info/RECORD"))
    paths = {row[0] for row in csv.reader(record.splitlines())}
    assert paths == set(contents)
    assert {path.split("/")[0] for path in paths if ".dist-info/" not in path} == NAMES


def test_every_file_of_the_packages_is_in_the_wheel(contents: dict[str, bytes]) -> None:
    for name in NAMES:
        files = (file for file in (ROOT / name).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        for file in files:
            assert contents.get(file.relative_to(ROOT).as_posix()) == file.read_bytes(), file


def test_every_recipe_is_in_the_wheel(contents: dict[str, bytes]) -> None:
    recipes = {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in (ROOT / "configs").rglob("*.yaml")}
    assert recipes
    installed = {name[name.index("configs/") :]: content for name, content in contents.items() if "configs/" in name}
    assert installed == recipes


def test_the_metadata_name_every_extra(metadata: Message, wheel: Path, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["Name"] == project["name"] and metadata["Version"] == project["version"]
    extras = project["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras)
    required = metadata.get_all("Requires-Dist", [])
    for extra, requirements in extras.items():
        for requirement in requirements:
            name = re.match(r"[\w.-]+", requirement)
            if name is None or name[0] == project["name"]:  # dev names the other extras
                continue
            assert any(
                line.lower().startswith(name[0].lower()) and f"extra == '{extra}'" in line for line in required
            ), requirement
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--dry-run", "--ignore-installed", "--no-index"]
    command += ["--no-deps", "--find-links", str(wheel.parent), f"pretint[{','.join(extras)}]"]
    done = subprocess.run(command, cwd=tmp_path, env=_clean(), capture_output=True, text=True)
    assert done.returncode == 0 and "does not provide" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert f"pretint-{project['version']}" in done.stdout


def test_packages_and_program_come_from_the_new_environment(run: Run, site: Path, contents: dict[str, bytes]) -> None:
    names = sorted(NAMES)
    code = f"import importlib; [print(importlib.import_module(name).__file__) for name in {names}]"
    assert run("python", "-c", code).splitlines() == [str(site / name / "__init__.py") for name in names]
    assert str(ROOT) not in run("python", "-c", "import sys; print(*sys.path, sep='\\n')").splitlines()
    assert run("python", "-c", "from importlib.metadata import version as v; print(v('pretint'))") in run(
        "pretint", "--version"
    )
    (points,) = (content.decode() for name, content in contents.items() if name.endswith("/entry_points.txt"))
    scripts = configparser.ConfigParser()
    scripts.read_string(points)
    assert list(scripts["console_scripts"]) == ["pretint"]


def test_every_command_gives_help(run: Run) -> None:
    assert "colorize" in run("pretint", "--help")
    assert "--out" in run("pretint", "colorize", "--help")


def test_the_demo_runs(run: Run, site: Path, tmp_path: Path) -> None:
    (recipe,) = site.rglob("configs/pretext/demo.yaml")
    settings = yaml.safe_load(recipe.read_text())
    settings["training"] |= {"steps": 20, "warmup": 2}  # of 2,500; that they are taken shows which recipe was read
    recipe.write_text(yaml.safe_dump(settings))
    shown = run("pretint", "demo", "here/demo")
    assert f"--config {recipe}" in shown
    done = tmp_path / "here" / "demo"
    assert yaml.safe_load((done / "settings.yaml").read_text())["training"]["steps"] == 20
    assert "<svg" in (done / "report.html").read_text()  # its templates were found
    assert list((done / "colored").glob("*.png")) and list((done / "results").glob("*.json"))
