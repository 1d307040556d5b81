"""The inks of all pictures, and the colour of the page that each becomes when it is drawn.

The series are Okabe and Ito's colours and two of our own, told apart also by colour-blind readers;
dashes and shapes repeat the distinction. Two have a meaning in words and cells too, and in pictures
of one loss against what is kept: blue is kept, orange is lost. A picture is built in these inks.
The book turns each into the page's own colour, light or dark (`PAGE`; `book/_static/book.css` says
which).
"""

from __future__ import annotations

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, OLIVE, GREY = "#A8478A", "#806400", "#8A8A8A"
KEPT, LOST = BLUE, ORANGE  # what a window or a cache holds, and what goes with the rest
SERIES = [BLUE, ORANGE, GREEN, PURPLE, OLIVE, GREY]
TEXT, MUTED, GRID = "#222832", "#48566b", "#e3e6ea"
PAGE = {TEXT: "--pst-color-text-base", MUTED: "--pst-color-text-muted", GRID: "--kv-grid"} | {
    ink: f"--kv-series-{number}" for number, ink in enumerate(SERIES, 1)
}
