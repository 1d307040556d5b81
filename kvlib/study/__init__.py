"""Studies: what is measured is declared, and each item of each table comes about in one way.

`declared` holds what there is to measure, `items` how one document is measured, `here` and
`cluster` who does it, `states` and `joining` what has come of it.
"""

from kvlib.study.declared import (
    DTYPES,
    FILE,
    KINDS,
    Kind,
    Study,
    chosen,
    declare,
    said_of,
    studies,
)
from kvlib.study.here import run
from kvlib.study.states import State, state
