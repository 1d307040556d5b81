"""Charts and their controls: a table in, an explorer out, one module for each page."""

from kvlib.charts import (
    block_markov,
    bounds,
    controls,
    extrapolation,
    formulation,
    open_question,
    parts,
    passage,
    policies,
    positions,
    sensitivity,
    sink_recent,
    story,
)
