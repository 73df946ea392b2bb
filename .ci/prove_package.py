"""Prove that what is published works where there is no checkout.

Source archive -> wheel built from that archive -> two clean environments outside the repository:
one with the bare wheel, as a client would install it (`windlass --help` must work), and one with everything,
from which the demo runs. A package that is missing from pyproject.toml shows here and nowhere else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {".py", ".pyi", ".proto", ".typed"}


def main() -> int:
    """Return 0 when every proof holds, 1 with the reason printed otherwise."""
    with tempfile.TemporaryDirectory(prefix="windlass-package-") as scratch:
        try:
            prove(Path(scratch))
        except subprocess.CalledProcessError as error:
            print(f"package: `{' '.join(map(str, error.cmd))}` ended with {error.returncode}")
            return 1
        except ProofError as error:
            print(f"package: {error}")
            return 1
    return 0


class ProofError(Exception):
    """The published files lack something; the message says what."""


def prove(scratch: Path) -> None:
    """Build in `scratch`, then use what was built from there."""
    wheel = build(scratch)
    compare(wheel)
    client = environment(scratch / "client", str(wheel))
    run(client / "windlass", "--help", cwd=scratch)
    print("package: a client install shows its help")
    complete = environment(scratch / "complete", f"{wheel}[all]")
    demo = ROOT / "examples" / "orders" / "demo.py"
    if not demo.is_file():
        raise ProofError(f"there is no {demo.relative_to(ROOT)} to run from the wheel")
    shutil.copytree(ROOT / "examples", scratch / "examples")
    run(complete / "python", "examples/orders/demo.py", cwd=scratch)
    print("package: the demo runs from the wheel")


def build(scratch: Path) -> Path:
    """Build the source archive and, from it, the wheel. Return the wheel's path."""
    # A build folder left in the checkout would leak files that are gone into the wheel: build from a copy.
    source = scratch / "source"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--outdir", str(scratch / "dist"), str(source), cwd=scratch, quiet=True)
    wheels = list((scratch / "dist").glob("*.whl"))
    if len(wheels) != 1:
        raise ProofError(f"expected one wheel, found {[wheel.name for wheel in wheels]}")
    return wheels[0]


def compare(wheel: Path) -> None:
    """Raise ProofError unless the wheel holds exactly the shipped files of the mapped folders."""
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-dir"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = set()
    for name in tracked.splitlines():
        owners = [package for package, folder in folders.items() if name.startswith(f"{folder}/")]
        if owners and Path(name).suffix in SHIPPED:
            package = max(owners, key=lambda owner: len(folders[owner]))
            expected.add(package.replace(".", "/") + name.removeprefix(folders[package]))
    with zipfile.ZipFile(wheel) as archive:
        present = {name for name in archive.namelist() if ".dist-info/" not in name}
    if expected != present:
        missing, extra = sorted(expected - present), sorted(present - expected)
        raise ProofError(f"{wheel.name} lacks {missing} and should not hold {extra}")
    print(f"package: {wheel.name} holds all {len(present)} files of the packages")


def environment(folder: Path, requirement: str) -> Path:
    """Make a clean environment with one thing installed. Return the folder of its programs."""
    run(sys.executable, "-m", "venv", str(folder), cwd=folder.parent)
    programs = folder / "bin"
    run(
        programs / "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        requirement,
        cwd=folder.parent,
        quiet=True,
    )
    return programs


def run(*command: str | Path, cwd: Path, quiet: bool = False) -> None:
    """Run a command to its end; raises CalledProcessError. A quiet one prints only when it fails."""
    sys.stdout.flush()
    if not quiet:
        subprocess.run(command, cwd=cwd, check=True)
        return
    result = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    if result.returncode:
        print(result.stdout, result.stderr, sep="\n")
        result.check_returncode()


if __name__ == "__main__":
    sys.exit(main())
