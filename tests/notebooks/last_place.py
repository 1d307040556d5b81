"""Moves every float that the library computes to its neighbour: what another processor may do.

`shake` runs in a kernel before a page does. From then on each function, method and property of
kvlib, and each numerical function of NumPy and SciPy that may round otherwise elsewhere, returns
floats that are one unit in the last place off, up or down by the toss of a coin; equal ones move
the same way, as the same program does. What is not finite stays, and whole numbers, for they are
counts. So do short decimals that kvlib's own functions return, as 0.09:
those are settings, or rounded already.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import numpy as np
import pandas as pd

LIBRARY = "kvlib"
SHORT = 6  # digits of a decimal that was not computed, or was rounded
ROUNDING = {  # functions whose last bit depends on the processor
    "numpy": (
        *("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "power", "sin", "cos", "tanh"),
        *("sum", "mean", "std", "var", "average", "quantile", "cumsum", "prod", "cumprod"),
        *("dot", "matmul", "einsum", "outer", "convolve", "interp", "geomspace", "logspace"),
    ),
    "numpy.linalg": ("solve", "inv", "eigvalsh", "eigh", "svd", "slogdet", "lstsq", "norm"),
    "scipy.linalg": ("solve", "solve_toeplitz", "cholesky", "eigh", "eigvalsh"),
    "scipy.optimize": ("brentq", "minimize_scalar"),
    "scipy.special": ("gammaln", "gamma", "zeta", "logsumexp", "softmax", "xlogy", "stdtrit"),
}


def short(value: np.ndarray) -> np.ndarray:
    """Which floats are the nearest ones to a decimal of at most `SHORT` digits."""
    exact = np.abs(value.astype(float))
    with np.errstate(all="ignore"):
        shift = SHORT - 1 - np.floor(np.log10(np.where(exact > 0, exact, 1)))
        ten = 10.0 ** np.abs(shift)
        whole = np.round(np.where(shift < 0, exact / ten, exact * ten))
        return np.where(shift < 0, whole * ten, whole / ten).astype(value.dtype) == np.abs(value)


class Shaker:
    """Moves floats by one unit in the last place, each up or down by the toss of a coin."""

    def __init__(self, seed: int) -> None:
        self.coin = np.uint64(2 * seed + 1)
        self.settings_stay = False
        self.moved_floats = 0
        self.busy = False

    def moved(self, value: Any) -> Any:
        """The value with every float in it moved; what is no number or table stays as it is."""
        if isinstance(value, float | np.floating):
            return type(value)(self.array(np.asarray(value))[()])
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, pd.Series | pd.DataFrame):
            return self.table(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.moved, value))
        if type(value) in (list, tuple):
            return type(value)(map(self.moved, value))
        if type(value) is dict:
            return {key: self.moved(item) for key, item in value.items()}
        if type(value).__module__.startswith(LIBRARY) and dataclasses.is_dataclass(value):
            return self.record(value)
        torch = sys.modules.get("torch")
        if torch and isinstance(value, torch.Tensor) and value.is_floating_point():
            return self.tensor(value)
        return value

    def array(self, value: np.ndarray) -> np.ndarray:
        """An array of floats, moved; of objects, each of them."""
        if value.dtype == object:
            flat = [self.moved(item) for item in value.ravel()]
            new = np.empty(len(flat), dtype=object)
            new[:] = flat
            return new.reshape(value.shape)
        if value.dtype.kind != "f":
            return value
        with np.errstate(all="ignore"):
            towards = np.where(self.goes_up(value), np.inf, -np.inf).astype(value.dtype)
            fixed = ~np.isfinite(value) | (value == np.round(value))
            if self.settings_stay:
                fixed |= short(value)
            new = np.where(fixed, value, np.nextafter(value, towards))
        self.moved_floats += int((~fixed).sum())
        return new

    def goes_up(self, value: np.ndarray) -> np.ndarray:
        """The toss of a coin for each float, the same for equal ones: a bit of its bits, mixed."""
        bits = np.ascontiguousarray(value, dtype=np.float64).view(np.uint64)
        mixed = (bits ^ (bits >> np.uint64(29))) * (self.coin * np.uint64(0x9E3779B97F4A7C15))
        return (mixed >> np.uint64(63)).astype(bool).reshape(value.shape)

    def table(self, value: pd.Series | pd.DataFrame) -> pd.Series | pd.DataFrame:
        """A table whose columns are moved; its index stays.

        Columns in single precision stay: those are stored, read as they are, and computed with in
        double precision. Their neighbours are a thousand million times further away.
        """
        if isinstance(value, pd.Series):
            if (
                value.dtype == np.float32
                or value.dtype.kind not in ("f", "O")
                or not isinstance(value.dtype, np.dtype)
            ):
                return value
            return pd.Series(self.array(value.to_numpy()), value.index, name=value.name)
        if not value.columns.is_unique:
            return value
        columns = {name: self.table(value[name]) for name in value}
        return pd.DataFrame(columns, index=value.index, columns=value.columns)

    def record(self, value: Any) -> Any:
        """A dataclass whose fields are moved."""
        new = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(new, field.name, self.moved(getattr(value, field.name)))
        return new

    def tensor(self, value: Any) -> Any:
        """A tensor in single or double precision, moved."""
        import torch

        with torch.inference_mode(value.is_inference()):
            flat = value.detach().cpu()
            if flat.dtype not in (torch.float32, torch.float64):
                return value
            return torch.from_numpy(self.array(flat.numpy())).to(value.device)

    def shaken(self, function: Any, settings_stay: bool = True) -> Any:
        """A function whose results are moved."""

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            found = function(*args, **options)
            if self.busy:  # what is called here while floats are moved computes nothing of a page
                return found
            self.busy, self.settings_stay = True, settings_stay
            try:
                return self.moved(found)
            finally:
                self.busy = False

        return call

    def shake_class(self, owner: type) -> None:
        """Shake the methods and properties that a class defines; not those that Python calls."""
        for name, item in list(vars(owner).items()):
            if name.startswith("__") and name != "__call__":
                continue
            if isinstance(item, types.FunctionType):
                setattr(owner, name, self.shaken(item))
            elif isinstance(item, property):
                setattr(owner, name, property(self.shaken(item.fget)))

    def shake_module(self, module: types.ModuleType) -> None:
        """Shake every function and class that a module of the library defines."""
        for name, item in list(vars(module).items()):
            if getattr(item, "__module__", None) != module.__name__:
                continue
            if isinstance(item, types.FunctionType):
                setattr(module, name, self.shaken(item))
            elif isinstance(item, type):
                self.shake_class(item)


class _Finder(importlib.abc.MetaPathFinder):
    """Has the library's modules shaken as soon as they are imported."""

    def __init__(self, shaker: Shaker) -> None:
        self.shaker = shaker

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The spec that Python would find, with a loader that shakes."""
        if name.split(".")[0] != LIBRARY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (
                load(module),
                self.shaker.shake_module(module),
            )
        return spec


def shake(seed: int) -> Shaker:
    """From now on, floats are moved; to be called before kvlib is imported."""
    assert LIBRARY not in sys.modules
    shaker = Shaker(seed)
    for owner, names in ROUNDING.items():
        module = importlib.import_module(owner)
        for name in names:
            setattr(module, name, shaker.shaken(getattr(module, name), settings_stay=False))
    sys.meta_path.insert(0, _Finder(shaker))
    return shaker
