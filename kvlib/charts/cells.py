"""A cache, drawn: one cell a token, those that are kept, those that are gone, the one to come."""

from __future__ import annotations

import html
from collections.abc import Sequence


def strip(tokens: Sequence[str], sinks: int, newest: int) -> str:
    """Tokens as the cells of a cache that holds the first and the newest of them, as HTML.

    Args:
        tokens: what was read, in order; a space before a word is part of its token.
        sinks: how many of the first are kept.
        newest: how many of the newest are kept.

    Raises:
        ValueError: when nothing would be gone.
    """
    many = len(tokens)
    if min(sinks, newest) < 0 or sinks + newest >= many:
        raise ValueError(
            f"sinks and newest: expected at least 0 and fewer than {many} together, "
            f"got {sinks} and {newest}"
        )
    cells = [
        _cell("kept" if place < sinks or place >= many - newest else "gone", token)
        for place, token in enumerate(tokens)
    ]
    label = (
        f"{many} tokens as the cells of a cache: the first {sinks} and the newest {newest} are "
        f"kept, the {many - sinks - newest} between them are gone. The next token is asked for."
    )
    drawn = "".join([*cells, _cell("asked", "?")])
    return f'<div class="kv-strip" role="img" aria-label="{html.escape(label)}">{drawn}</div>'


def _cell(kind: str, token: str) -> str:
    return f'<span class="kv-cell kv-cell-{kind}">{html.escape(token.strip())}</span>'
