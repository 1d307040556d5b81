"""A tolerance in, a budget out: measured on half of a user's documents, certified on the others.

`result` is what there is to say of a plan, for texts, files and reports.
"""

from kvlib.plan.result import (
    CERTIFIED,
    NOT_CERTIFIED,
    Clipped,
    Documents,
    Law,
    NextDocument,
    Plan,
    Tried,
)
