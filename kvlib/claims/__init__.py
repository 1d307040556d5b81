"""Claims: from the stored tables to a rule, a verdict and a sentence, one module for each page."""

from kvlib.claims import (
    block_markov,
    bounds,
    claim,
    extrapolation,
    formulation,
    front,
    open_question,
    policies,
    policy_rows,
    positions,
    sensitivity,
    sink_recent,
    story,
)
