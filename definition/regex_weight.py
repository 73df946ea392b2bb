"""How much work a regular expression can be, seen in its text.

The engines used here run in time linear in the text, but not in the pattern: `(a?){3000}` is three thousand steps for
each character, and a pattern of thirty characters can take a tenth of a second to compile.
"""

from __future__ import annotations

import re
from typing import Final

#: Steps of a large set of characters such as `\pL`: those that are compiled, and those that a text takes through it.
WIDE_COMPILED, WIDE_TAKEN = 200, 4
#: Sets of characters that a compiler writes out in hundreds of steps, though a text takes few of them; and in some.
_WIDE: Final = re.compile(r"\\[pPwW]")
_BROAD: Final = re.compile(r"\\[dDsS]|\.\Z|\[\^")
_BROAD_STEPS: Final = 20
_TOKEN: Final = re.compile(r"\\[pP](?:\{[^}]*\}|.)|\\.|\[\^?(?:\\.|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL)
#: With this flag a comment may hide what follows from a reader as simple as this one.
_VERBOSE: Final = re.compile(r"\(\?[a-zA-Z-]*x")
_MOST: Final = 10**12


def regex_weight(pattern: str, wide: int) -> int:
    """About how many steps the pattern has with its repetitions written out. `wide`: what a large set counts."""
    if _VERBOSE.search(pattern):
        return _MOST
    groups = [0]
    last = 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text == "(":
            groups.append(0)
        elif token[1] is not None:
            most = min(_MOST, max(int(token[1]), int(token[2] or 0), 1))
            groups[-1] += last * (most - 1)
            last *= most
        elif text not in "*+?|^$":
            last = (groups.pop() if text == ")" and len(groups) > 1 else 0) + _steps(text, wide)
            groups[-1] += last
    return min(_MOST, sum(groups) + 1)


def _steps(text: str, wide: int) -> int:
    if _WIDE.search(text):
        return wide
    return min(wide, _BROAD_STEPS) if _BROAD.match(text) else 1 + len(text) // 4
