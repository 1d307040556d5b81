"""Named texts, pinned by their SHA-256, or any text file, and the documents cut out of them.

Most are cut out of installed packages, two are fetched on demand, by `kvlib fetch NAME`. `recipes`
is a module of its own: how the texts are made.
"""

from kvlib.corpora.documents import (
    SHIFTS,
    STRETCH_CHARS,
    STRETCHES,
    Corpus,
    Stretch,
    begins,
    check_stretches,
    documents_of,
)
from kvlib.corpora.pinned import CORPORA, ON_DEMAND, PinnedText, load_corpus, make, path_of

__all__ = [
    "CORPORA",
    "ON_DEMAND",
    "SHIFTS",
    "STRETCHES",
    "STRETCH_CHARS",
    "Corpus",
    "PinnedText",
    "Stretch",
    "begins",
    "check_stretches",
    "documents_of",
    "load_corpus",
    "make",
    "path_of",
]
