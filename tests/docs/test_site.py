"""What the site is made of: figures, recipes and public names; and that a broken link fails its build."""

import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

import pretext
import pretint
import pretint.colorization
import pretint.study
import slurm
import transfer

ROOT = Path(__file__).parents[2]


def loaded(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_figures_beside_the_pages_are_what_the_code_draws() -> None:
    """Up to fonts and rounding: compared at a quarter of their size."""
    figures = loaded("figures")
    assert {file.name for file in (ROOT / "docs" / "figures").iterdir()} == set(figures.FIGURES)
    for name in figures.FIGURES:
        seen = []
        for content in ((ROOT / "docs" / "figures" / name).read_bytes(), figures.drawn(name)):
            assert len(content) < 100_000
            with Image.open(io.BytesIO(content)) as image:
                paper = Image.new("RGBA", image.size, "white")
                paper.alpha_composite(image.convert("RGBA"))
            small = paper.convert("RGB").resize((paper.width // 4, paper.height // 4))
            seen.append(np.asarray(small, dtype=float))
        assert seen[0].shape == seen[1].shape and np.abs(seen[0] - seen[1]).mean() < 2, name
        assert seen[1].std() > 5, name  # something is drawn


def test_the_recipes_page_has_every_recipe_as_it_stands() -> None:
    page = loaded("hooks").recipes(ROOT / "configs")
    for file in (ROOT / "configs").glob("*/*.yaml"):
        assert f"{{#{file.parent.name}-{file.stem}}}" in page
        for line in file.read_text(encoding="utf-8").splitlines():
            assert line.removeprefix("#").strip() in page, file


def test_the_api_page_has_every_public_name() -> None:
    page = loaded("hooks").names(ROOT)
    for package in (pretint, pretext, transfer, pretint.colorization, pretint.study, slurm):
        for name in package.__all__:
            assert f"{{#{package.__name__}.{name}}}" in page
            modules = set(re.findall(rf"^::: ([\w.]+)\.{name}$", page, re.MULTILINE))
            assert getattr(package, name) in [getattr(importlib.import_module(module), name) for module in modules]


def test_every_page_of_the_source_is_on_the_site() -> None:
    listed = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(file.name for file in (ROOT / "docs").glob("*.md"))


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for place in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / place).exists(), place


@pytest.mark.parametrize("broken", ["[x](gone.md)", "[x](other.md#gone)", "[x](#gone)", "![x](gone.png)"])
def test_a_broken_link_fails_the_build(broken: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI needs mkdocs")
        pytest.skip("needs mkdocs: pip install 'pretint[docs]'")
    asked = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    kept = {name: asked[name] for name in ("site_name", "strict", "validation", "use_directory_urls")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({**kept, "plugins": []}))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## There\n")
    page = tmp_path / "docs" / "index.md"
    for text, code in (("[x](other.md#there)", 0), (broken, 1)):
        page.write_text(f"# Page\n\n{text}\n")
        done = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert "gone" in done.stderr
