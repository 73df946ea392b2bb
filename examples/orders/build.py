"""Makes charge.wasm of charge.wat, with the assembler that comes with wasmtime. Run it after every change of the
source.

    python examples/orders/build.py

`charge.c` says the same in C; its first lines say how to compile it where there is a clang that knows wasm32.
"""

from __future__ import annotations

from pathlib import Path

import wasmtime

HERE = Path(__file__).parent


def build() -> bytes:
    """The module's bytes."""
    return bytes(wasmtime.wat2wasm((HERE / "charge.wat").read_text("utf-8")))


if __name__ == "__main__":
    module = build()
    (HERE / "charge.wasm").write_bytes(module)
    print(f"charge.wasm: {len(module)} bytes")
