"""What the site adds to the pages when it is built: the figures, the recipes, the public names."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECIPES = "<!-- recipes -->"
NAMES = "<!-- names -->"
GROUPS = {
    "pretext": "Pretraining: `pretint pretrain`",
    "transfer": "Fine-tuning: `pretint finetune`",
    "study": "Studies: `pretint study`",
    "slurm": "Clusters: `pretint submit --on`",
}
"""Folder of configs/ -> its heading; others go by their name."""
PUBLIC = (
    "pretint/__init__.pyi",
    "pretext/__init__.pyi",
    "transfer/__init__.pyi",
    "pretint/colorization/__init__.pyi",
    "pretint/study/__init__.pyi",
    "slurm/__init__.py",
)


def on_files(files: Any, config: Any) -> Any:
    """Draw the figures anew."""
    sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # not above: MkDocs takes back what a hook does while it is loaded
    from figures import FIGURES, drawn
    from mkdocs.structure.files import File

    for name in FIGURES:
        committed = files.get_file_from_path(f"figures/{name}")
        if committed is not None:
            files.remove(committed)
        files.append(File.generated(config, f"figures/{name}", content=drawn(name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what is generated, and turn links to recipe files into links to the page of them."""
    markdown = re.sub(r"\]\(\.\./configs/(\w+)/(\w+)\.yaml\)", r"](recipes.md#\1-\2)", markdown)
    markdown = re.sub(r"\[[^\]]*\]\(\.\./([^)]*)\)", r"`\1`", markdown)  # what is not on the site is only named
    titles = {file: title for title, file in titled(config.nav)}
    markdown = re.sub(r"\[([\w-]+\.md)\]\(\1", lambda found: f"[{titles[found[1]]}]({found[1]}", markdown)
    return markdown.replace(RECIPES, recipes(ROOT / "configs")).replace(NAMES, names(ROOT))


def titled(nav: Any) -> Iterator[tuple[str, str]]:
    """The title and file of every page."""
    for entry in nav:
        for title, of in entry.items():
            if isinstance(of, str):
                yield title, of
            else:
                yield from titled(of)


def recipes(folder: Path) -> str:
    """Every recipe: the comment at its top as it stands there, and its settings, folded."""
    lines = []
    there = sorted(one.name for one in folder.iterdir() if one.is_dir())
    for group in map(folder.joinpath, sorted(there, key=lambda name: [*GROUPS, name].index(name))):
        lines += [f"## {GROUPS.get(group.name, group.name.capitalize())} {{#{group.name}}}", ""]
        for file in sorted(group.glob("*.yaml")):
            head, settings = parted(file.read_text(encoding="utf-8"))
            lines += [f"### {file.stem} {{#{group.name}-{file.stem}}}", "", "```text", *head, "```", ""]
            lines += [f'??? note "{file.relative_to(folder.parent)}"', "", "    ```yaml"]
            lines += [f"    {line}".rstrip() for line in settings]
            lines += ["    ```", ""]
    return "\n".join(lines)


def parted(text: str) -> tuple[list[str], list[str]]:
    """The comment at the top of a recipe, without its marks, and what follows."""
    lines = text.splitlines()
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:count]], lines[count:]


def names(root: Path) -> str:
    """Every public name, by package, as its docstring tells of it."""
    lines = []
    for file in PUBLIC:
        package = ".".join(Path(file).parent.parts)
        lines += [f"## {package}", ""]
        for name, module in sorted(public(root, file).items(), key=lambda one: one[0].lower()):
            lines += [f"[](){{#{package}.{name}}}", "", f"::: {module}.{name}", ""]
    return "\n".join(lines)


def public(root: Path, file: str) -> dict[str, str]:
    """The names that a package's ``__init__`` gives, and the full names of the modules that they are from."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    package = ".".join(Path(file).parent.parts)
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level else str(node.module)
            found |= {one.name: module for one in node.names}
    return found
