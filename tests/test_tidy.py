"""Style that we decided on is a failing test, not advice.

Every rule lists all its offenders at once: a person who fixes one wants to know of the others.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
BANNED_NAMES = re.compile(r"(^|_)(managers?|helpers?|utils?|common|misc)(_|$)", re.IGNORECASE)
BANNED_CLASS_NAMES = re.compile(r"(Manager|Helper|Helpers|Util|Utils)(?=[A-Z]|$)")
# Built from parts, so that this file does not hold what it forbids.
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|root|opt/pypi|opt/wheels|home/\w+|Users/\w+)/")
REGISTRY_HOSTS = re.compile(r"(pypi|pythonhosted|npmjs|debian|docker|buf)\.(org|com|io|build)\b")
TEXT_SUFFIXES = {
    "", ".cfg", ".html", ".ini", ".js", ".json", ".md", ".mjs", ".proto", ".py", ".pyi", ".sh", ".toml", ".ts", ".txt",
    ".wat", ".yaml", ".yml",
}  # fmt: skip


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the project: tracked by git, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    paths = (ROOT / name for name in names if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink() and ".namespace" not in path.parts)


def python_files() -> list[Path]:
    """Python that people wrote."""
    return [path for path in tracked() if path.suffix == ".py" and not GENERATED.search(path.name)]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def refuse(offenders: list[str], rule: str) -> None:
    assert not offenders, f"{rule}:\n  " + "\n  ".join(sorted(offenders))


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    long = [f"{shown(path)}: {count} lines" for path, count in lengths.items() if count > FILE_LINES_MAX]
    refuse(long, f"a file has at most {FILE_LINES_MAX} lines; split it along its ideas")


def test_functions_stay_short() -> None:
    long = []
    for path in python_files():
        for function in functions(path):
            count = (function.end_lineno or function.lineno) - function.lineno + 1
            if count > FUNCTION_LINES_MAX:
                long.append(f"{shown(path)}:{function.lineno} {function.name}: {count} lines")
    refuse(long, f"a function has at most {FUNCTION_LINES_MAX} lines")


def test_names_say_what_a_thing_does() -> None:
    vague = []
    for path in python_files():
        folders = path.relative_to(ROOT).parts[:-1]
        vague += [f"{shown(path)}: {part}" for part in (*folders, path.stem) if BANNED_NAMES.search(part)]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and BANNED_CLASS_NAMES.search(node.name):
                vague.append(f"{shown(path)}:{node.lineno} class {node.name}")
    refuse(vague, "no manager, helper, utils, common or misc: name the duty")


def test_annotations_are_never_evaluated() -> None:
    missing = []
    for path in python_files():
        body = tree(path).body
        code = body[1:] if body and ast.get_docstring(tree(path)) is not None else body
        imports = (node for node in code if isinstance(node, ast.ImportFrom) and node.module == "__future__")
        if code and "annotations" not in {alias.name for node in imports for alias in node.names}:
            missing.append(shown(path))
    refuse(missing, "each file that holds code starts with `from __future__ import annotations`")


def test_imports_are_absolute() -> None:
    bare = {"client", "definition", "engine", "proto", "runtimes", "storage", "worker"}
    wrong = []
    for path in python_files():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                modules = ["." * node.level + (node.module or "")]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            offending = (name for name in modules if name.startswith(".") or name.split(".")[0] in bare)
            wrong += [f"{shown(path)}:{node.lineno} {name}" for name in offending]
    refuse(wrong, "import by the full name, windlass.…: the bare one gives a second copy of every class")


def test_no_file_names_a_machine_or_a_registry() -> None:
    naming = []
    for path in tracked():
        if path.suffix not in TEXT_SUFFIXES:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line)
            if found:
                naming.append(f"{shown(path)}:{number} {found.group()}")
    refuse(naming, "paths of one machine and hosts of registries do not belong in the project")


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"#.*\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
    left = [
        f"{shown(path)}:{number}"
        for path in python_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    refuse(left, "finish it or file it; a mark in the code is neither")
