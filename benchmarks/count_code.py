"""Count the product's code: ``python -m benchmarks.count_code [FOLDER] [--compare COMMIT]``.

Reads the source of a checkout, of any age, and imports none of it. The product is its packages (``PACKAGES``) without
tests, benchmarks and docs. A line of code has a token that is no comment and no docstring.
"""

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("pretext", "transfer", "colorization", "study", "slurm", "pretint")
"""Of this checkout and of older ones; those that a checkout does not have are left out."""
APART = {
    "apps": ("pretint/apps", "colorization/turing", "colorization/studio", "colorization/pages"),
    "virtual Slurm": ("slurm/virtual", "tests/virtual_slurm/processes.py"),
}
"""What is counted by itself, by the beginning of its path."""

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_ALIAS = re.compile(r"_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")  # not a CONSTANT

Graph = dict[str, set[str]]
"""The modules that each module imports."""


def read_product(folder: Path) -> dict[str, str]:
    """Return the source of every Python file of the product, by its path in the folder."""
    files = (file for package in PACKAGES for file in sorted((folder / package).rglob("*.py")))
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


def count_code_lines(source: str) -> int:
    """Count the lines that are neither blank nor comment nor docstring (also of an attribute)."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        for statement in node.body if isinstance(node, _DOCUMENTED) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docstrings.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def find_functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions and methods of a module, those within others among them."""
    return [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]


def _references(node: ast.AST) -> Counter[str]:
    """How often each name is used: as a variable, as an attribute, in an import."""
    names: Counter[str] = Counter()
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            names[each.id] += 1
        elif isinstance(each, ast.Attribute):
            names[each.attr] += 1
        elif isinstance(each, ast.alias):
            names[each.name] += 1
    return names


def find_helpers_of_one(trees: dict[str, ast.Module]) -> list[tuple[str, str]]:
    """Find private functions and methods with one caller: path and name.

    The name is used once in the file that defines it (its own body does not count), and in no other file that does
    not define the name itself.
    """
    used = {path: _references(tree) for path, tree in trees.items()}
    defined = {path: Counter(one.name for one in find_functions(tree)) for path, tree in trees.items()}
    helpers = []
    for path, tree in trees.items():
        for function in find_functions(tree):
            name = function.name
            if not name.startswith("_") or name.startswith("__") or defined[path][name] > 1:
                continue
            elsewhere = any(used[other][name] for other in trees if other != path and not defined[other][name])
            if used[path][name] - _references(function)[name] == 1 and not elsewhere:
                helpers.append((path, name))
    return helpers


def find_repeated_types(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Find the names of classes, and of type aliases of a module, that are defined more than once: name to paths."""
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                for name in filter(_ALIAS.fullmatch, names):
                    places[name].append(path)
    return {name: paths for name, paths in sorted(places.items()) if len(paths) > 1}


def import_graph(trees: dict[str, ast.Module], type_checking: bool = False) -> Graph:
    """Return which modules import which, also within functions; those under TYPE_CHECKING only where asked for."""
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in trees}
    graph: Graph = {name: set() for name in names}
    for name, path in names.items():
        package = name.split(".") if path.endswith("/__init__.py") else name.split(".")[:-1]
        for node in _imports(trees[path], type_checking):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            else:
                base = package[: len(package) - node.level + 1] if node.level else []
                start = ".".join([*base, *([node.module] if node.module else [])])
                wanted = [one if (one := f"{start}.{alias.name}") in names else start for alias in node.names]
            graph[name].update(one for one in wanted if one in names and one != name)
    return graph


def _imports(node: ast.AST, type_checking: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not type_checking:
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), type_checking)
        else:
            yield from _imports(child, type_checking)


def find_circles(graph: Graph) -> list[list[str]]:
    """Find the sets of modules of which each imports every other, directly or by way of others."""
    reached: Graph = {}
    for start in graph:
        seen, waiting = set[str](), [start]
        while waiting:
            fresh = graph[waiting.pop()] - seen
            seen |= fresh
            waiting += fresh
        reached[start] = seen
    circles = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(circle) for circle in circles)


def count_word(sources: dict[str, str], word: str) -> tuple[int, int]:
    """Count the names that hold a word, and its occurrences in strings, comments and docstrings."""
    names = texts = 0
    for source in sources.values():
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME:
                names += word in token.string.lower()
            elif token.type not in (tokenize.OP, tokenize.NUMBER):
                texts += token.string.lower().count(word)
    return names, texts


def count(folder: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the rows of the table, by what they count, and the lists that stand behind them."""
    sources = read_product(folder)
    trees = {path: ast.parse(source) for path, source in sources.items()}
    lines: Counter[str] = Counter()
    for path, source in sources.items():
        part = next((name for name, starts in APART.items() if path.startswith(starts)), path.split("/")[0])
        lines[part] += count_code_lines(source)
    functions = [one for tree in trees.values() for one in find_functions(tree)]
    total = sum((one.end_lineno or 0) - one.lineno + 1 for one in functions)
    helpers, repeated = find_helpers_of_one(trees), find_repeated_types(trees)
    circles, typed = find_circles(import_graph(trees)), find_circles(import_graph(trees, type_checking=True))
    ing = [path for path in trees if path.endswith("ing.py")]
    names, texts = count_word(sources, "image")
    pages = sum(file.read_text().lower().count("image") for file in [*folder.glob("*.md"), *folder.glob("docs/*.md")])
    rows: dict[str, int | str] = {f"code lines, {part}": lines[part] for part in (*PACKAGES, *APART)}
    rows["code lines without apps and virtual Slurm"] = sum(lines[part] for part in PACKAGES)
    rows |= {"code lines, all": lines.total(), "modules": len(trees), "functions": len(functions)}
    rows |= {"lines of a function, mean": f"{total / max(1, len(functions)):.1f}", "modules in -ing": len(ing)}
    rows |= {"private helpers with one caller": len(helpers), "names of several types": len(repeated)}
    rows |= {"circles of imports": len(circles), "  with those under TYPE_CHECKING": len(typed)}
    rows |= {'"image" in names': names, '"image" in strings and comments': texts, '"image" in pages': pages}
    lists = {
        "circles of imports": [" ".join(circle) for circle in circles],
        "circles with imports under TYPE_CHECKING": [" ".join(one) for one in typed if one not in circles],
        "names of several types": [f"{name}: {' '.join(paths)}" for name, paths in repeated.items()],
        "modules in -ing": ing,
        "private helpers with one caller": [f"{path}: {name}" for path, name in helpers],
    }
    return {name: f"{value:,}" if isinstance(value, int) else value for name, value in rows.items()}, lists


def count_commit(folder: Path, commit: str) -> dict[str, str]:
    """Return the rows of a commit of the repository in the folder."""
    archive = subprocess.run(["git", "-C", folder, "archive", commit], check=True, stdout=subprocess.PIPE).stdout
    with tempfile.TemporaryDirectory() as place, tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(place, filter="data")
        return count(Path(place))[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.count_code", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="a checkout (default: this folder)")
    parser.add_argument(
        "--compare", metavar="COMMIT", help="print the counts of this commit beside those of the folder"
    )
    parser.add_argument("--lists", action="store_true", help="print also what was counted, all of it")
    given = parser.parse_args()
    rows, lists = count(given.folder)
    columns = [rows]
    if given.compare:
        columns.insert(0, count_commit(given.folder, given.compare))
        print(f"{'':44}{given.compare[:9]:>10}{'now':>10}")
    for name in rows:
        print(f"{name:44}" + "".join(f"{column[name]:>10}" for column in columns))
    for name in lists if given.lists else ("circles of imports",):
        print(f"\n{name}:", *(lists[name] or ["none"]), sep="\n  ")


if __name__ == "__main__":
    main()
