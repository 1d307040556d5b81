"""A text into tokens, with an end: rules come with a model, and may be anyone's.

A rule that is a regular expression can take time that grows exponentially with the text, or fail
in the middle of it. No ordinary one comes near what is allowed here.
"""

from __future__ import annotations

import threading
import time
from typing import Any

MOST_SECONDS = 60.0  # of the processor, for any text
CHARACTERS_A_SECOND = 50_000  # beyond that; usual are a million


def tokens_of(tokenizer: Any, text: str, **settings: bool) -> Any:
    """What `tokenizer` makes of a text, without special tokens: `input_ids`, and what `settings`
    ask for.

    Raises ValueError for rules that fail on it, or take more than MOST_SECONDS of the processor
    and a second for CHARACTERS_A_SECOND. What is at work then cannot be stopped from here: it ends
    with the process.
    """
    found: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(tokenizer(text, add_special_tokens=False, verbose=False, **settings))
        except BaseException as error:  # a panic of a tokenizer is no Exception
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    begin, most = time.process_time(), MOST_SECONDS + len(text) / CHARACTERS_A_SECOND
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if time.process_time() - begin > most and thread.is_alive():
            raise ValueError(
                f"tokenizer: expected {len(text):,} characters to be read within {most:.0f} s of "
                "the processor, got no end"
            )
    if failed and isinstance(failed[0], Exception):
        raise failed[0]
    if failed:
        line = (str(failed[0]).splitlines() or [type(failed[0]).__name__])[0]
        raise ValueError(f"tokenizer: expected rules that this text can be read by, got: {line}")
    return found[0]
