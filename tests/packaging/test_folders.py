"""The list of packages, the folders and the links for type checkers say the same.

A package that is missing from pyproject.toml works in a checkout, where its parent's folder is found, and is missing
from the wheel. A missing link hides a package from the type checkers, which then check nothing of it.
"""

from __future__ import annotations

import os

from tests.packaging.project import FOLDERS, PACKAGES, ROOT, folder_of

LINKS = ROOT / ".namespace" / "windlass"


def packages_on_disk() -> set[str]:
    """Every folder below a mapped one that holds Python, by the name under which it would be imported."""
    found = set()
    for package, folder in FOLDERS.items():
        for place, _, files in os.walk(ROOT / folder):
            if any(name.endswith(".py") for name in files):
                below = os.path.relpath(place, ROOT / folder).replace(os.sep, ".")
                found.add(package if below == "." else f"{package}.{below}")
    return found


def test_every_folder_with_python_is_a_listed_package() -> None:
    assert packages_on_disk() == set(PACKAGES)


def test_the_list_is_in_order_and_without_repeats() -> None:
    assert sorted(set(PACKAGES)) == PACKAGES


def test_every_package_has_an_init_so_that_it_is_no_namespace() -> None:
    assert [name for name in PACKAGES if not (folder_of(name) / "__init__.py").is_file()] == []


def test_the_namespace_itself_has_no_init() -> None:
    assert not (ROOT / "proto" / "windlass" / "__init__.py").exists()
    assert not (LINKS / "__init__.py").exists()


def test_every_top_package_is_marked_as_typed() -> None:
    top = [name for name in PACKAGES if name.count(".") == 1]
    assert [name for name in top if not (folder_of(name) / "py.typed").is_file()] == []


def test_type_checkers_see_every_package_through_a_relative_link() -> None:
    top = {name.split(".")[1]: folder_of(name) for name in PACKAGES if name.count(".") == 1}
    assert {link.name for link in LINKS.iterdir()} == set(top)
    for name, folder in top.items():
        link = LINKS / name
        assert link.is_symlink(), f"{link} must be a link"
        assert not os.path.isabs(os.readlink(link)), f"{link} must be relative: it is committed"
        assert link.resolve() == folder.resolve()
