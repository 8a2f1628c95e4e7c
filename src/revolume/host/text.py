"""Text that came from somebody else, made fit to be printed.

A terminal obeys control characters: an escape sequence in a name or in an error can move the cursor, change what
is on the screen or name a link. What turns the direction of text around is as good at hiding something.
"""

from __future__ import annotations

import re
from typing import Any, Final

_CONTROLS: Final = "\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_CONTROL: Final = re.compile(f"[{_CONTROLS}]")


def one_line(text: str) -> str:
    """``text`` with a question mark for each control character, and a space for an end of line or a tab."""
    return _CONTROL.sub(lambda found: " " if found[0] in "\n\t" else "?", text)


def harmless(value: Any) -> Any:
    """A JSON value, its strings and keys each as ``one_line``."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, list):
        return [harmless(each) for each in value]
    if isinstance(value, dict):
        return {one_line(str(key)): harmless(each) for key, each in value.items()}
    return value
