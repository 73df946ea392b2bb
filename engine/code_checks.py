"""Task code as the engine judges it when it is stored: read, never run and never given to a script engine.

A WebAssembly module is parsed far enough to know its interface, a script is read for what no worker would take. Syntax
errors in scripts are found by `windlass validate` where a worker is installed, and by the worker: the engine does not
parse hostile scripts. Only the composition root may use this file, because it names runtimes.
"""

from __future__ import annotations

from windlass.runtimes.javascript_source import script_of
from windlass.runtimes.port import BadCode
from windlass.runtimes.wasm_sections import module_facts


def check_code(runtime: str, code: bytes) -> list[str]:
    """What is wrong with a piece of code; empty when a worker would take it. Unknown runtimes are not judged."""
    try:
        if runtime == "wasm":
            module_facts(code)
        elif runtime == "javascript":
            script_of(code)
    except BadCode as error:
        return [problem.message for problem in error.problems]
    return []
