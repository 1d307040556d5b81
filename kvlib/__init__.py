"""What may a language model forget? Measuring, fitting and bounding context truncation.

Begin with `models.load_model` and `corpora.load_corpus`; `measure.truncation_sensitivity` and
`measure.policy_distortion` make a table of the two, `store.load_table` reads one that is stored;
`fit.curve` and `fit.exponent` say what it shows. `cache.BoundedCache` is a cache to generate with.
On the command line: `kvlib --help`.
"""

__version__ = "0.1.0"
