"""Task code as the engine judges it when it is stored: read, never run and never given to a script engine.

A WebAssembly module is parsed far enough to know its interface, a script is read for what no worker would take. Syntax
errors in scripts are found by `windlass validate` where a worker is installed, and by the worker: the engine does not
parse hostile scripts. Only the composition root may use this file, because it names runtimes.
"""

from __future__ import annotations

from windlass.engine.modules import CodeFacts
from windlass.runtimes.javascript_source import SOURCE_BYTES_MAX, script_of
from windlass.runtimes.port import BadCode
from windlass.runtimes.wasm_sections import module_facts


def read_code(runtime: str, code: bytes) -> CodeFacts:
    """What a piece of code is, and what is wrong with it. Unknown runtimes are not judged."""
    try:
        if runtime == "wasm":
            return CodeFacts(abi=module_facts(code).abi)
        if runtime == "javascript":
            script_of(code)
    except BadCode as error:
        limit = SOURCE_BYTES_MAX if runtime == "javascript" and len(code) > SOURCE_BYTES_MAX else 0
        return CodeFacts(tuple(problem.message for problem in error.problems), limit=limit)
    return CodeFacts()
