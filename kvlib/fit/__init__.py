"""Fitting: curves over windows, decay laws, exponents with intervals, contests between laws,
and the split of a variance."""

from kvlib.fit.bent import (
    EDGE,
    BentLaw,
    Shapes,
    bend,
    bend_of_reference,
    bent_law,
    strength,
)
from kvlib.fit.components import (
    PARTS,
    factor_known,
    pseudo_values,
    rank_correlation,
    variance_components,
)
from kvlib.fit.contests import (
    Contest,
    contest_tables,
    extrapolation,
    held_out,
    straight_log_ratios,
)
from kvlib.fit.curve import BINS_PER_OCTAVE, BOOTSTRAPS, Curve, curve, parted
from kvlib.fit.estimate import (
    MARGIN,
    Estimate,
    estimate,
    exponential_of,
    extremes,
    geometric_mean,
    jackknife,
    log_mean,
    log_ratio,
    mean_of,
    means_without_each,
    over_texts,
    ratio,
)
from kvlib.fit.exponents import (
    exponent,
    exponent_of,
    jackknife_t,
    left_out_exponents,
    local_slopes,
    summaries,
    summary,
)
from kvlib.fit.laws import LAWS, SHIFT, Fit, Law, fit_law
from kvlib.fit.matched import covered, log_gap, matched_slope
from kvlib.fit.references import Strengths, strengths
from kvlib.fit.tries import drawn, holm, logarithm_of, p_above
