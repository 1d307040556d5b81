"""What a table of `measure` or `distort` says: sentences with numbers, a chart, and a plan.

Of any number of documents and windows: with fewer than three documents there is no interval, and
none is pretended; beyond the largest window that was measured there is a law at best, and a number
of it is called an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvlib import fit, store
from kvlib.names import name_of
from kvlib.plan import terminal, translate

TRUNCATION, DISTORTION = KINDS = ("truncation_sensitivity", "policy_distortion")
METRICS = {"kl": "kl_nats", "tv": "tv", "top1": "top1_same"}  # and the columns that hold them
TITLES = {"kl": "mean KL (nats)", "tv": "mean total variation", "top1": "changed first guesses"}
EPSILONS = {"kl": 0.2, "tv": 0.1, "top1": 0.1}  # where none is asked for
ENOUGH = 3  # documents, for an interval over them
FROM = 8  # tokens; a law is fitted to windows from here on
BEYOND = 4  # times the largest window: further no number is given
DOTS = "*abcdefghij"


class Point(NamedTuple):
    """A mean over documents at a budget, or at the windows `first` to `size`, with its interval."""

    size: int
    first: int
    mean: float
    low: float | None
    high: float | None
    documents: int


class Series(NamedTuple):
    """One policy (its key) under one protocol, or a window, in one metric; sizes ascending."""

    policy: str
    protocol: str
    metric: str
    points: tuple[Point, ...]

    def least(self, epsilon: float, vouched: bool = True) -> Point | None:
        """The least size from which on all means, or all upper ends of intervals, are at most ε."""
        found = None
        for point in reversed(self.points):
            value = point.high if vouched else point.mean
            if value is None or value > epsilon:
                break
            found = point
        return found

    def title(self, several: bool = False) -> str:
        """How a sentence calls it."""
        return f"{name_of(self.policy)}, {self.protocol}" if several else name_of(self.policy)


class Decay(NamedTuple):
    """A power law that was fitted: its exponent, how many times the window a tenth of the loss
    takes, and the values it has beyond the largest window measured (windows, losses)."""

    exponent: fit.Estimate
    tenfold: float
    windows: np.ndarray
    losses: np.ndarray
    law: fit.Fit

    def value(self, window: float) -> float:
        """The law at a window."""
        return float(self.law(np.array([window]))[0])


class Shown(NamedTuple):
    """A table, read: what it is of, and its series in all the metrics that it has."""

    name: str
    kind: str
    model: str
    corpus: str
    rows: int
    documents: int
    context: int
    series: tuple[Series, ...]
    decay: Decay | None
    held: translate.Held | None
    settings: dict[str, Any]

    @property
    def metrics(self) -> list[str]:
        """The metrics that the table has."""
        return list(dict.fromkeys(one.metric for one in self.series))

    def of(self, metric: str) -> list[Series]:
        """The series in one metric; ValueError for one that the table lacks."""
        if metric not in self.metrics:
            raise ValueError(f"metric: expected one of {', '.join(self.metrics)}, got {metric!r}")
        return [one for one in self.series if one.metric == metric]

    @property
    def place(self) -> str:
        """Model and text, in a sentence."""
        return f"{self.model} on {self.corpus}"

    @property
    def several(self) -> bool:
        """Whether policies were run under more than one protocol."""
        return len({one.protocol for one in self.series}) > 1


# --- read -----------------------------------------------------------------------------------------


def shown(table: Path | str, folder: Path = store.DATA) -> Shown:
    """Read a table by its path, or one of the book's by its name.

    Raises ValueError with one line for one that is missing, damaged, empty, or of another kind.
    """
    path = found(table, folder)
    manifest, rows = store.read_manifest(path), store.load_table(path)
    settings = manifest["settings"]
    kind = settings.get("kind")
    if kind not in KINDS:
        raise ValueError(
            f"{path}: expected a table of `measure` or `distort`, got one of the kind {kind!r}"
        )
    series = tuple(_truncation(path, rows) if kind == TRUNCATION else _policies(path, rows))
    documents = int(rows["doc"].nunique())
    return Shown(
        name=path.name.removesuffix(".parquet"),
        kind=kind,
        model=called(settings.get("model", "a model")),
        corpus=called(settings.get("corpus", "a text")),
        rows=len(rows),
        documents=documents,
        context=int(rows["context"].max() if "context" in rows else rows["position"].max() + 1),
        series=series,
        decay=_decay(rows) if kind == TRUNCATION else None,
        held=translate.held_of_manifest(manifest.get("about", {}).get("model", {})),
        settings=settings,
    )


def found(table: Path | str, folder: Path = store.DATA) -> Path:
    """Where a table lies: its own path, or that of a table of the book with this name."""
    path = store.table_file(Path(table))
    stored = folder / path.name
    if not path.exists() and path.name == str(path) and stored.exists():
        return stored
    if not path.exists():
        raise ValueError(f"{path}: expected a table, or the name of one of the book's; found none")
    return path


def called(key: object) -> str:
    """How a sentence calls a model or text: by its name, or by the last part of its path."""
    name = name_of(str(key))
    name = Path(name).name if name == str(key) else name
    return "".join(letter for letter in name if letter.isprintable()) or "one without a name"


def _check_columns(path: Path, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuses rows without what is asked of them, in one line."""
    if missing := [name for name in columns if name not in rows]:
        raise ValueError(f"{path}: expected columns {', '.join(columns)}, got no {missing[0]}")
    if rows.empty:
        raise ValueError(f"{path}: expected rows, got none")
    for name in columns:
        if rows[name].dtype.kind in "iuf" and not np.isfinite(rows[name].astype(float)).all():
            raise ValueError(f"{path}: expected finite numbers in {name}, got some that are not")


def _truncation(path: Path, rows: pd.DataFrame) -> Iterator[Series]:
    """A series a metric; windows in quarters of an octave, as everywhere in the book."""
    columns = [name for name in METRICS.values() if name in rows]
    _check_columns(path, rows, ["doc", "position", "context", "window", "kl_nats"])
    rows, _ = fit.parted(rows)
    if rows.empty or (rows["window"] < 1).any():
        raise ValueError(f"{path}: expected windows from 1 on, shorter than their contexts")
    bins = np.ceil(fit.BINS_PER_OCTAVE * np.log2(rows["window"]) - 1e-9).astype(int)
    windows = rows["window"].groupby(bins)
    ends = list(zip(windows.min(), windows.max(), strict=True))
    for metric, column in METRICS.items():
        if column in columns:
            means = _loss(rows, metric).groupby([bins, rows["doc"]]).mean()
            points = [
                _point(first, last, means.loc[b], _most(metric))
                for b, (first, last) in _numbered(means, ends)
            ]
            yield Series("sliding", "reencode", metric, tuple(points))


def _numbered(
    means: pd.Series, ends: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """The number of each bin with its ends."""
    return zip(means.index.get_level_values(0).unique(), ends, strict=True)


def _policies(path: Path, rows: pd.DataFrame) -> Iterator[Series]:
    """A series a protocol, policy and metric."""
    _check_columns(path, rows, ["doc", "position", "policy", "protocol", "budget", "kl_nats"])
    for metric, column in METRICS.items():
        if column not in rows:
            continue
        means = _loss(rows, metric).groupby(
            [rows["protocol"], rows["policy"], rows["budget"], rows["doc"]]
        )
        by_key = means.mean()
        for protocol, policy in rows[["protocol", "policy"]].drop_duplicates().to_numpy():
            ours = by_key.loc[(protocol, policy)]
            points = tuple(
                _point(k, k, part.droplevel(0), _most(metric)) for k, part in ours.groupby(level=0)
            )
            yield Series(str(policy), str(protocol), metric, points)


def _most(metric: str) -> float:
    """What no loss is above: a share is at most one."""
    return math.inf if metric == "kl" else 1.0


def _loss(rows: pd.DataFrame, metric: str) -> pd.Series:
    """Losses of rows: rounding below zero is none, and a guess is changed or not."""
    values = rows[METRICS[metric]]
    return 1.0 - values if metric == "top1" else values.astype(float).clip(lower=0)


def _point(first: int, last: int, by_document: pd.Series, most: float) -> Point:
    """A mean over documents of losses from 0 to `most`, with its 95% interval where there are
    enough of them."""
    values = by_document.to_numpy(dtype=float)
    n, mean = len(values), float(values.mean())
    low = high = None
    if n >= ENOUGH:
        whole = values.sum()
        found = fit.log_mean(values) if (whole > values).all() else fit.mean_of(by_document)
        low, high = max(0.0, found.low), min(most, found.high)
    return Point(int(last), int(first), mean, low, high, n)


def _decay(rows: pd.DataFrame) -> Decay | None:
    """The finite-context power law of the means in KL; None where there is too little to fit it."""
    if rows["doc"].nunique() < ENOUGH:
        return None
    try:
        data = fit.curve(rows.assign(kl_nats=rows["kl_nats"].clip(lower=0)), common=True)
        data = data.between(FROM).positive()
        exponent = fit.exponent(data)
        law = fit.fit_law(
            "finite-context power", data.window, data.mean, data.weights, data.contexts
        )
    except (ValueError, ArithmeticError):  # fewer than three windows, or a mean of zero
        return None
    last = int(data.last.max())
    windows = np.arange(last + 1, min(BEYOND * last, int(data.contexts.min()) - 1) + 1)
    losses = law(windows) if len(windows) else np.array([])
    return Decay(exponent, float(10 ** (1 / max(exponent.value, 1e-3))), windows, losses, law)


# --- words ----------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """A number in a sentence: three digits, no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "no number"
    if abs(value) < 1e-4:
        return "less than 0.0001"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def amount(value: float, metric: str) -> str:
    """A loss with its unit."""
    if metric == "top1":
        return f"{digits(100 * value)}% of first guesses changed"
    return f"{digits(value)} nats" if metric == "kl" else f"{digits(value)} in total variation"


def tokens(count: int) -> str:
    return f"{count:,} token" + "s" * (count != 1)


def entries(count: int) -> str:
    return f"{count:,} entr" + ("y" if count == 1 else "ies")


def windows(point: Point) -> str:
    """The windows that a mean is over."""
    first = f"{point.first:,} to " if point.first < point.size else ""
    return f"{first}{tokens(point.size)}"


def documents(count: int) -> str:
    return f"{count} document" + "s" * (count != 1)


def interval(point: Point, metric: str) -> str:
    """An interval and what it is over, in brackets; or why there is none."""
    if point.low is None or point.high is None:
        return f"({documents(point.documents)}: too few for an interval)"
    times = 100 if metric == "top1" else 1
    unit = "%" if metric == "top1" else ""
    low, high = digits(times * point.low), digits(times * point.high)
    return f"(95% interval {low} to {high}{unit}, {documents(point.documents)})"


def header(of: Shown) -> str:
    """What a table is of."""
    first = min(point.first for one in of.series for point in one.points)
    last = max(point.size for one in of.series for point in one.points)
    what = f"windows of {first:,} to {tokens(last)}"
    if of.kind == DISTORTION:
        protocols = " and ".join(dict.fromkeys(one.protocol for one in of.series))
        what = f"{protocols}, budgets of {first:,} to {entries(last)}"
    place = f"{of.place[:1].upper()}{of.place[1:]}"
    return (
        f"{place}: {documents(of.documents)}, {of.rows:,} rows, {what}, contexts up to "
        f"{tokens(of.context)}."
    )


def reading(of: Shown, one: Series, point: Point) -> str:
    """What one point says."""
    if of.kind == TRUNCATION:
        kept = f"With its last {windows(point) if point.size > 1 else 'token'} alone"
    else:
        kept = f"With {entries(point.size)}, {one.title(of.several)}"
    return f"{kept}: {amount(point.mean, one.metric)} {interval(point, one.metric)}."


def about(of: Shown, metric: str) -> list[str]:
    """The sentences that say what a table shows in one metric."""
    series = of.of(metric)
    if of.kind == TRUNCATION:
        (one,) = series
        eighth = min(one.points, key=lambda point: abs(point.size - one.points[-1].size / 8))
        chosen = dict.fromkeys([eighth, one.points[-1]])
        return [reading(of, one, point) for point in chosen] + _decays(of, metric)
    sizes = sorted({point.size for one in series for point in one.points})
    size = sizes[(len(sizes) - 1) // 2]
    there = [(p, one) for one in series for p in one.points if p.size == size]
    ranked = sorted(there, key=lambda pair: pair[0].mean)
    found = [reading(of, ranked[0][1], ranked[0][0])]
    if len(ranked) > 1:
        worst = ranked[-1]
        found[0] = found[0].replace(":", " loses least:", 1)
        name = worst[1].title(of.several)
        found.append(
            f"{name[:1].upper()}{name[1:]} loses most: {amount(worst[0].mean, metric)} "
            f"{interval(worst[0], metric)}."
        )
    return found


def _decays(of: Shown, metric: str) -> list[str]:
    """How the loss falls with the window."""
    if metric != "kl":
        return []
    if of.documents < ENOUGH:
        return [f"{documents(of.documents).capitalize()}: an exponent takes three or more."]
    if of.decay is None:
        return [f"Too few windows of {FROM} tokens and more for a law of the decay."]
    alpha = of.decay.exponent
    if alpha.flat or alpha.low <= 0:
        return ["No exponent: how fast the loss falls cannot be told from these documents."]
    return [
        f"The loss falls as a power of the window, exponent {digits(alpha.value)} (95% interval "
        f"{digits(alpha.low)} to {digits(alpha.high)}): a tenth of it takes "
        f"{_times(of.decay.tenfold)} times the window."
    ]


def _times(factor: float) -> str:
    """A factor to two digits."""
    return f"about {_two(factor):,}" if factor <= 1e5 else "more than 100,000"


def _two(number: float) -> int:
    """A number of 10 and more to two digits."""
    return int(float(f"{number:.2g}"))


def allowed(epsilon: float, metric: str) -> str:
    """A tolerance, in words."""
    value = f"{epsilon:.12f}".rstrip("0").rstrip(".") if epsilon >= 1e-9 else f"{epsilon:g}"
    return f"epsilon = {value}" + (" nats" if metric == "kl" else "")


# --- the plan -------------------------------------------------------------------------------------


class Budget(NamedTuple):
    """What to keep for ε: a series and a point of it; whether its interval vouches for it."""

    series: Series
    point: Point
    vouched: bool


def budget(of: Shown, epsilon: float, metric: str) -> Budget | None:
    """The least size that keeps ε, over all policies; of equal ones that with the least loss.

    What an interval vouches for comes first; with too few documents for one, means alone speak.
    """
    check_epsilon(epsilon, metric)
    vouched = of.documents >= ENOUGH
    found = [
        Budget(one, point, vouched)
        for one in of.of(metric)
        if (point := one.least(epsilon, vouched)) is not None
    ]
    return min(found, key=lambda item: (item.point.size, item.point.mean), default=None)


def check_epsilon(epsilon: float, metric: str) -> None:
    """Refuses tolerances that say nothing."""
    most = math.inf if metric == "kl" else 1
    if not 0 < epsilon < most:
        raise ValueError(
            f"epsilon: expected more than 0{' nats' if metric == 'kl' else ' and below 1'}, "
            f"got {epsilon}"
        )


def advice(of: Shown, epsilon: float, metric: str) -> str:
    """What to keep for ε, or why that cannot be said."""
    best = budget(of, epsilon, metric)
    if best is not None:
        return _kept(of, best, epsilon, metric)
    most = max(
        (one.points[-1] for one in of.of(metric)), key=lambda point: (point.size, -point.mean)
    )
    size = windows(most) if of.kind == TRUNCATION else entries(most.size)
    said = (
        f"No measured {'window' if of.kind == TRUNCATION else 'budget'} keeps "
        f"{allowed(epsilon, metric)}: the largest, {size}, has {amount(most.mean, metric)} "
        f"{interval(most, metric)}."
    )
    return f"{said} {_further(of, epsilon, metric)}"


def _kept(of: Shown, best: Budget, epsilon: float, metric: str) -> str:
    """The plan where there is one."""
    point, one = best.point, best.series
    size = tokens(point.size) if of.kind == TRUNCATION else entries(point.size)
    what = f"the last {size}" if of.kind == TRUNCATION else f"{size} by {one.title(of.several)}"
    several = of.kind == TRUNCATION and point.first < point.size
    over = f", the mean over {windows(point)}" if several else ""
    least = " The least that was measured: less may do." if point == one.points[0] else ""
    if not best.vouched:
        return (
            f"With {allowed(epsilon, metric)} keep {what}, by the mean alone, "
            f"{amount(point.mean, metric)}{over}: {documents(point.documents)} give no interval, "
            f"so nothing vouches for it. Measure three documents or more.{least}"
        )
    return (
        f"With {allowed(epsilon, metric)} keep {what}: {amount(point.mean, metric)} "
        f"{interval(point, metric)}{over}.{least}"
    )


def _further(of: Shown, epsilon: float, metric: str) -> str:
    """What the law says beyond what was measured, and what to do."""
    more = (
        "Measure larger windows (--max-window)."
        if of.kind == TRUNCATION
        else "Measure larger budgets (--budget)."
    )
    low = any(point.mean <= epsilon for one in of.of(metric) for point in one.points[-1:])
    if low and of.documents >= ENOUGH:
        return "Its mean would do, its interval is too wide: measure more documents (--docs)."
    decay = of.decay if metric == "kl" else None
    if decay is None or decay.exponent.flat or not len(decay.losses):
        return more
    below = np.flatnonzero(np.asarray(decay.losses) <= epsilon)
    last = int(decay.windows[0]) - 1
    if len(below) == 0:
        return (
            f"Nor does the fitted law up to {tokens(int(decay.windows[-1]))}; further no number is "
            f"given. {more}"
        )
    at = int(decay.windows[below[0]])
    return (
        f"The fitted law comes there at about {tokens(_two(at))}, "
        f"{digits(at / last)} times the largest window measured: an extrapolation that nothing "
        f"here vouches for. {more}"
    )


def heavy(of: Shown, best: Budget | None) -> str:
    """What the budget weighs, where the table knows its model; empty otherwise."""
    if best is None or of.held is None:
        return ""
    size, context = best.point.size, of.context
    count = of.held.bounded(size) if of.kind == DISTORTION else of.held.bytes(size)
    full = of.held.bytes(context)
    count = min(count, full)
    return (
        f"That is {translate.weight(count)} of cache a sequence in 16 bits, "
        f"{digits(100 * count / full)}% of the {translate.weight(full)} of a full one at "
        f"{tokens(context)}."
    )


# --- forms ----------------------------------------------------------------------------------------


def drawing(of: Shown, epsilon: float, metric: str) -> str:
    """The chart of plain characters, with its key."""
    series = of.of(metric)[: len(DOTS) - 1]
    letters = "*" if len(series) == 1 else DOTS[1:]
    lines = [
        terminal.Line(letter, [(p.size, p.mean, p.low, p.high) for p in one.points])
        for letter, one in zip(letters, series, strict=False)
    ]
    x_title = "window kept (tokens)" if of.kind == TRUNCATION else "budget (entries a query sees)"
    picture = terminal.chart(lines, x_title, TITLES[metric], epsilon)
    if not picture:
        return f"Nothing is lost at any size: all of {TITLES[metric]} is 0."
    key = [f"- -  {allowed(epsilon, metric)}"]
    if of.documents >= ENOUGH:
        key.insert(0, ":  95% interval")
    if len(series) > 1:
        names = [f"{x}  {s.title(of.several)}" for x, s in zip(letters, series, strict=False)]
        return "\n".join(
            [picture, *(f"{'':9}{name}" for name in names), f"{'':9}{'   '.join(key)}"]
        )
    return f"{picture}\n{'':9}{'   '.join(['*  measured', *key])}"


def to_text(of: Shown, epsilon: float | None = None, metric: str = "kl") -> str:
    """A table for a terminal: at most 80 columns, but for lines to paste; plain characters."""
    epsilon = EPSILONS[metric] if epsilon is None else epsilon
    best = budget(of, epsilon, metric)
    parts = [header(of), *about(of, metric), advice(of, epsilon, metric), heavy(of, best)]
    said = "\n".join(wrapped(part) for part in parts if part)
    blocks = [said, drawing(of, epsilon, metric)]
    if of.kind == DISTORTION and len(of.of(metric)) > 1:
        blocks.append(_by_policy(of, epsilon, metric))
    if best is not None and (lines := ours(of, best)):
        blocks.append(lines)
    return "\n\n".join(blocks)


def wrapped(text: str, width: int = 79) -> str:
    """Lines of at most `width` characters; what follows the first is set in."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = "  " + word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def _by_policy(of: Shown, epsilon: float, metric: str) -> str:
    """The least budget of each policy, a line each."""
    vouched = of.documents >= ENOUGH
    lines = [f"least budget for {allowed(epsilon, metric)}" + ("" if vouched else ", by means")]
    for one in of.of(metric):
        point = one.least(epsilon, vouched)
        size = "none measured" if point is None else entries(point.size)
        lines.append(f"  {one.title(of.several):<42} {size}")
    return "\n".join(lines)


def ours(of: Shown, best: Budget) -> str:
    """Our own setting, to paste."""
    return settings(of, best)[0].lines


def settings(of: Shown, best: Budget) -> list[translate.Setting]:
    """The settings of all engines."""
    one = best.series
    step = of.settings.get("step")
    step = step if type(step) is int and step > 0 else translate.STEP
    return translate.settings(one.policy, best.point.size, of.held, one.protocol, step)


def to_json(of: Shown, epsilon: float | None = None, metric: str = "kl") -> dict[str, Any]:
    """Everything that the text and the page say, as data."""
    epsilon = EPSILONS[metric] if epsilon is None else epsilon
    best = budget(of, epsilon, metric)
    decay = of.decay
    plan = None
    if best is not None:
        plan = best.point._asdict() | {
            "policy": best.series.policy,
            "protocol": best.series.protocol,
            "vouched": best.vouched,
            "settings": {one.engine: one._asdict() for one in settings(of, best)},
        }
    return {
        "table": of.name,
        "kind": of.kind,
        "model": of.model,
        "text": of.corpus,
        "documents": of.documents,
        "rows": of.rows,
        "context": of.context,
        "metric": metric,
        "epsilon": epsilon,
        "sentences": [header(of), *about(of, metric), advice(of, epsilon, metric)],
        "exponent": None
        if decay is None or decay.exponent.flat
        else {
            "value": decay.exponent.value,
            "low": decay.exponent.low,
            "high": decay.exponent.high,
        },
        "plan": plan,
        "series": [
            {"policy": one.policy, "protocol": one.protocol, "metric": one.metric}
            | {"points": [point._asdict() for point in one.points]}
            for one in of.series
        ],
    }
