"""Read a WebAssembly module far enough to know whether we want it, without any engine.

A module is a header and sections; each list in it is preceded by its length. All lengths are checked against caps
before anything is listed, since listing is what a hostile module makes expensive (100 000 exports: minutes). What is
read: the function types, the imports, the exports, and from every other section its count. The engine validates the
rest.

Raises `BadCode` with every message meant for the author of the module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from windlass.runtimes.port import BadCode, Problem
from windlass.runtimes.wasm_signatures import IMPORTS, Signature

MODULE_BYTES_MAX: Final = 10 << 20
_HEADER: Final = b"\0asm\x01\0\0\0"
_COMPONENT: Final = b"\0asm\x0d\0\x01\0"
_NAME_BYTES_MAX: Final = 1_024
_NAMES_SHOWN: Final = 12
_VALUE_TYPES: Final = {0x7F: "i", 0x7E: "I", 0x7D: "f", 0x7C: "F"}
_FUNCTION, _MEMORY = 0, 2

# Section id: (what it lists, how many are allowed). Types, imports and exports are few in any honest module.
_CAPS: Final = {
    1: ("types", 10_000),
    2: ("imports", 256),
    3: ("functions", 50_000),
    4: ("tables", 10),
    5: ("memories", 1),
    6: ("globals", 10_000),
    7: ("exports", 1_000),
    9: ("element segments", 20_000),
    10: ("function bodies", 50_000),
    11: ("data segments", 20_000),
}
_TAG_SECTION: Final = 13
#: Of any kind; toolchains make about a dozen, of which some have nothing to do with the code.
_SECTIONS_MAX: Final = 1_000
#: No function type of ours has more parameters; the engine's own limit is a thousand.
_PARAMETERS_READ_MAX: Final = 16

_ENTRY_POINTS: Final[dict[str, dict[str, Signature]]] = {
    "wasi": {"_start": Signature("", "")},
    "ptr": {"run": Signature("ii", "I"), "alloc": Signature("i", "i")},
}
_OPTIONAL: Final[dict[str, Signature]] = {"_initialize": Signature("", ""), "dealloc": Signature("ii", "")}


class ModuleFacts(Struct, frozen=True, array_like=True):
    """What the runtime needs to know of a module."""

    #: "wasi" or "ptr".
    abi: str
    #: The optional exports that are there.
    optional: tuple[str, ...] = ()


class _Reader:
    """Bytes with a position; every read is checked."""

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data, self.at, self.end = data, at, len(data) if end is None else end

    def byte(self) -> int:
        if self.at >= self.end:
            raise _refused("the module ends in the middle of something")
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """An unsigned LEB128 number of at most 32 bits."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 32:
                    break
                return value
        raise _refused("a number in the module is longer than 32 bits")

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise _refused("the module ends in the middle of something")
        self.at += count
        return self.data[self.at - count : self.at]

    def name(self) -> str:
        length = self.number()
        if length > _NAME_BYTES_MAX:
            raise _refused(f"a name of {length} bytes; the limit is {_NAME_BYTES_MAX}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _refused("a name in the module is not UTF-8") from error


def _refused(message: str) -> BadCode:
    return BadCode(Problem(message))


def module_facts(code: bytes, entry: str = "") -> ModuleFacts:
    """Return the facts of `code`. `entry`: the ABI that the definition names, or "". Raises BadCode."""
    _check_header(code)
    sections = _sections(code)
    types = _types(sections.get(1))
    imported = _imports(sections.get(2), types)
    own_functions = sections.get(3)
    exports = _exports(sections.get(7))

    def signature(index: int) -> Signature | None:
        number = imported[index] if index < len(imported) else _nth(own_functions, index - len(imported))
        return types[number] if number is not None and number < len(types) else None

    return _entry_points(exports, signature, entry)


def _check_header(code: bytes) -> None:
    if len(code) > MODULE_BYTES_MAX:
        raise _refused(f"the module is {len(code)} bytes; the limit is {MODULE_BYTES_MAX}")
    if not code:
        raise _refused("the module is empty")
    if code[:8] == _COMPONENT:
        raise _refused("this is a component; components are not supported, only core modules: build for wasm32-wasip1")
    if code.lstrip()[:1] == b"(":
        raise _refused("this is WebAssembly text; assemble it first (wat2wasm)")
    if code[:4] == _HEADER[:4] and code[:8] != _HEADER:
        raise _refused(f"unknown version of the WebAssembly format: {int.from_bytes(code[4:8], 'little')}")
    if code[:8] != _HEADER:
        raise _refused("this is not a WebAssembly module: it does not begin with \\0asm and version 1")


def _sections(code: bytes) -> dict[int, _Reader]:
    """Return a reader for each section, behind its count."""
    whole = _Reader(code, 8)
    found: dict[int, _Reader] = {}
    sections = 0
    while whole.at < whole.end:
        sections += 1
        if sections > _SECTIONS_MAX:
            raise _refused(f"the module has more than {_SECTIONS_MAX} sections")
        kind, size = whole.byte(), whole.number()
        start = whole.at
        whole.take(size)
        if kind == _TAG_SECTION:
            raise _refused("the module throws WebAssembly exceptions, which are switched off")
        if kind in _CAPS:
            if kind in found:
                raise _refused(f"the module has two sections of {_CAPS[kind][0]}")
            found[kind] = section = _Reader(code, start, start + size)
            what, most = _CAPS[kind]
            count = section.number()
            if count > most:
                raise _refused(f"the module has {count} {what}; the limit is {most}")
            section.at = start
    _check_memory(found.get(5))
    return found


def _check_memory(section: _Reader | None) -> None:
    if section is None or section.number() == 0:
        return
    flags = section.byte()
    if flags & 0x02:
        raise _refused("the module wants shared memory; threads are switched off")
    if flags & 0x04:
        raise _refused("the module wants a 64-bit memory, which is switched off")


def _types(section: _Reader | None) -> list[Signature | None]:
    """Return the function types; None for one with a value type that none of our interfaces has."""
    types: list[Signature | None] = []
    for _ in range(section.number() if section else 0):
        assert section is not None
        if section.byte() != 0x60:
            raise _refused("the module has types of the garbage collection proposal, which is switched off")
        parts = [_value_types(section) for _ in range(2)]
        types.append(None if None in parts else Signature(parts[0] or "", parts[1] or ""))
    return types


def _value_types(section: _Reader) -> str | None:
    codes = section.take(section.number())
    if len(codes) > _PARAMETERS_READ_MAX:
        return None
    letters = [_VALUE_TYPES.get(code) for code in codes]
    return None if None in letters else "".join(letter for letter in letters if letter)


def _imports(section: _Reader | None, types: list[Signature | None]) -> list[int]:
    """Check the imports and return the type numbers of the functions among them."""
    functions = []
    for _ in range(section.number() if section else 0):
        assert section is not None
        module, name, kind = section.name(), section.name(), section.byte()
        if kind != _FUNCTION:
            raise _refused(f"the module imports {module}.{name}, which is no function; it must bring its own memory")
        number = section.number()
        wanted = IMPORTS.get((module, name))
        if wanted is None:
            raise _refused(f"the module imports {module}.{name}, which does not exist here; see docs/sandbox.md")
        if number >= len(types) or types[number] != wanted:
            raise _refused(f"the module imports {module}.{name} with a wrong type; it is {wanted}")
        functions.append(number)
    return functions


def _exports(section: _Reader | None) -> dict[str, tuple[int, int]]:
    exports: dict[str, tuple[int, int]] = {}
    for _ in range(section.number() if section else 0):
        assert section is not None
        name = section.name()
        exports[name] = (section.byte(), section.number())
    return exports


def _nth(section: _Reader | None, index: int) -> int | None:
    if section is None:
        return None
    reader = _Reader(section.data, section.at, section.end)
    if index >= reader.number():
        return None
    for _ in range(index):
        reader.number()
    return reader.number()


def _entry_points(
    exports: dict[str, tuple[int, int]], signature: Callable[[int], Signature | None], entry: str
) -> ModuleFacts:
    abi = entry or ("wasi" if "_start" in exports else "ptr")
    if abi not in _ENTRY_POINTS:
        raise _refused(f"there is no interface called {abi!r}; there are wasi and ptr")
    wanted = _ENTRY_POINTS[abi]
    if exports.get("memory", (None, 0))[0] != _MEMORY:
        raise _refused(f"the module must export its memory as `memory`; it exports {_shown(exports)}")
    for name, needed in wanted.items():
        if name not in exports:
            raise _refused(
                "the module has no entry point: it needs `_start` (WASI command) or `run` and `alloc` (pointer"
                f" interface); it exports {_shown(exports)}"
            )
        _check_type(name, exports[name], needed, signature)
    optional = []
    for name, needed in _OPTIONAL.items():
        if abi == "ptr" and name in exports:
            _check_type(name, exports[name], needed, signature)
            optional.append(name)
    return ModuleFacts(abi, tuple(optional))


def _check_type(
    name: str, export: tuple[int, int], needed: Signature, signature: Callable[[int], Signature | None]
) -> None:
    kind, index = export
    if kind != _FUNCTION:
        raise _refused(f"`{name}` is exported, but is not a function")
    found = signature(index)
    if found != needed:
        raise _refused(f"`{name}` has the type {found or 'of something else'}; it must be {needed}")


def _shown(exports: dict[str, tuple[int, int]]) -> str:
    names = ", ".join(name[:40] for name in list(exports)[:_NAMES_SHOWN]) or "nothing"
    return names + (f" and {len(exports) - _NAMES_SHOWN} more" if len(exports) > _NAMES_SHOWN else "")
