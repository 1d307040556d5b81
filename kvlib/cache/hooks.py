"""The one hook of a model: it hands each forward to the cache that this forward was given.

A cache alone never learns about padding, and cannot say who sees whom. So four functions are called
around the forwards of a model and of its body, and one around its `prepare_inputs_for_generation`,
the only place where `generate` shows all ids, and where a model may throw its cache away. They are
put there when the model's first cache is made and stay: they hold nothing, and act only where they
are given a cache made for this very module. A copy of the model, or one that was pickled, has them
too, and serves the caches made for it.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache

from kvlib.models import masks

MISSING = object()
PREPARE = "prepare_inputs_for_generation"
CALLED = ("past_key_values", "cache")  # what transformers calls its caches: before 5.24, and since
_INSTALLING = threading.Lock()


class Hooked(Cache):
    """A cache that is told of the forwards it is given to, on the model it was made for."""

    model: Any  # None once it is closed, or the model is gone

    def before_body(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that take the place of some in `given`, all arguments by name."""
        raise NotImplementedError

    def after_body(self) -> None:
        """The body came through."""
        raise NotImplementedError

    def before_model(self) -> None:
        """The whole model is run: laws are due, not states alone."""
        raise NotImplementedError

    def after_model(self) -> None:
        """The whole model came through."""
        raise NotImplementedError

    def model_broke(self) -> None:
        """The model's forward ended in an exception."""
        raise NotImplementedError

    def before_attention(self, module: Any) -> Any:
        """The mask of one layer, where its own takes the place of that of all layers."""
        return None

    def after_attention(self, module: Any, weights: Any) -> None:
        """One layer came through; its weights (batch, heads, queries, entries), where shown."""

    def before_generation(self, ids: Any, mask: Any, new: int | None, first: bool) -> None:
        """`generate` is about to run a forward of the last `new` of `ids`, or of all."""
        raise NotImplementedError


def install(model: Any) -> None:
    """Puts the hook on a model and its body, where it is not there yet."""
    body = masks.body(model)
    with _INSTALLING:
        _put(body._forward_pre_hooks, body.register_forward_pre_hook, _before_body)
        _put(body._forward_hooks, body.register_forward_hook, _after_body)
        if model is not body:
            _put(model._forward_pre_hooks, model.register_forward_pre_hook, _before_model)
            _put(model._forward_hooks, model.register_forward_hook, _after_model, always_call=True)
        if hasattr(model, PREPARE) and PREPARE not in vars(model):
            setattr(model, PREPARE, Prepare(model))


def install_in_layers(model: Any) -> None:
    """Puts a hook on each attention module, for caches whose layers have masks of their own."""
    with _INSTALLING:
        for module in masks.attention_modules(model):
            _put(module._forward_pre_hooks, module.register_forward_pre_hook, _before_attention)
            _put(module._forward_hooks, module.register_forward_hook, _after_attention)


def _put(there: dict[int, Callable], register: Callable, hook: Callable, **how: bool) -> None:
    if not any(other is hook for other in there.values()):
        register(hook, with_kwargs=True, **how)


def _names(module: Any) -> tuple[str, ...]:
    """Names of what a module's forward takes; asked at every forward, so that classes are kept."""
    if "forward" in vars(module):
        return tuple(inspect.signature(module.forward).parameters)
    return _names_of(type(module).forward)[1:]


@functools.lru_cache(maxsize=256)
def _names_of(forward: Callable) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)


def _cache_of(module: Any, args: tuple, kwargs: Any) -> tuple[Hooked | None, dict[str, Any]]:
    """The cache that a forward is given, and all arguments by name.

    torch stores a hook before it stores that the hook takes keywords: a forward that another thread
    runs in between is called without them. It cannot be one of a cache of this model, for its
    caches are made after that.
    """
    if not isinstance(kwargs, dict):
        return None, {}
    if args:
        kwargs = dict(zip(_names(module), args, strict=False)) | kwargs
    return _given(kwargs), kwargs


def _given(arguments: dict[str, Any]) -> Hooked | None:
    """The bounded cache among arguments, if there is one."""
    caches = (arguments.get(name) for name in CALLED)
    return next((cache for cache in caches if isinstance(cache, Hooked)), None)


@torch.compiler.disable
def _before_body(module: Any, args: tuple, kwargs: Any = None) -> tuple | None:
    cache, given = _cache_of(module, args, kwargs)
    if cache is None or cache.model is None or masks.body(cache.model) is not module:
        return None
    return (), given | cache.before_body(given)


@torch.compiler.disable
def _after_body(module: Any, args: tuple, kwargs: Any, output: Any = MISSING) -> None:
    if output is MISSING:
        return
    cache, _ = _cache_of(module, args, kwargs)
    if cache is not None and cache.model is not None and masks.body(cache.model) is module:
        cache.after_body()


@torch.compiler.disable
def _before_model(module: Any, args: tuple, kwargs: Any = None) -> None:
    cache, _ = _cache_of(module, args, kwargs)
    if cache is not None and cache.model is module:
        cache.before_model()


@torch.compiler.disable
def _after_model(module: Any, args: tuple, kwargs: Any, output: Any = MISSING) -> None:
    """Called after an exception as well, with None for the output."""
    if output is MISSING:
        return
    cache, _ = _cache_of(module, args, kwargs)
    if cache is not None and cache.model is module:
        cache.model_broke() if output is None else cache.after_model()


@torch.compiler.disable
def _before_attention(module: Any, args: tuple, kwargs: Any = None) -> tuple | None:
    cache, given = _cache_of(module, args, kwargs)
    mask = None if cache is None else cache.before_attention(module)
    return None if mask is None else ((), given | {"attention_mask": mask})


@torch.compiler.disable
def _after_attention(module: Any, args: tuple, kwargs: Any, output: Any = MISSING) -> None:
    if output is MISSING:
        return
    cache, _ = _cache_of(module, args, kwargs)
    if cache is not None:
        cache.after_attention(module, output[1] if isinstance(output, tuple) else None)


class Prepare:
    """Stands before a model's `prepare_inputs_for_generation`; what copies the model copies it.

    The model is held by a weak reference: with a strong one it would outlive its last user.
    """

    def __init__(self, model: Any) -> None:
        self._model = weakref.ref(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepare:
        model = self._model()
        return Prepare(memo.get(id(model), model))

    def __reduce__(self) -> tuple[type, tuple]:
        return Prepare, (self._model(),)

    @property
    def __signature__(self) -> inspect.Signature:
        """The model's own: `generate` asks which arguments it takes."""
        return inspect.signature(getattr(type(self._model()), PREPARE).__get__(self._model()))

    def __call__(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        model: Any = self._model()
        if model is None:
            raise RuntimeError(
                "generate: expected a model that had its cache's hook put on, got a shallow copy "
                "of one that is gone; use copy.deepcopy"
            )
        cache = _given(kwargs)
        if cache is not None and cache.model is not model:
            cache = None
        if cache is not None:
            cache.before_generation(
                input_ids,
                kwargs.get("attention_mask"),
                kwargs.get("next_sequence_length"),
                bool(kwargs.get("is_first_iteration")),
            )
        given = getattr(type(model), PREPARE)(model, input_ids, *args, **kwargs)
        if cache is not None and _given(given) is not cache:
            raise RuntimeError(
                f"{type(model).__name__}: expected a model that keeps the cache it is given, got "
                f"one that throws it away at {input_ids.shape[1]} tokens; generate fewer"
            )
        return given
