"""Measuring: a model and a text in, a table of divergences out. Nothing is estimated here."""

from kvlib.measure.distortion import check_policies, measure_policies, policy_distortion
from kvlib.measure.laws import log_laws, next_token_law, next_token_laws
from kvlib.measure.truncation import (
    PAIRS_PER_OCTAVE,
    Design,
    design_for,
    measure_document,
    naive_sensitivity,
    truncation_sensitivity,
)
