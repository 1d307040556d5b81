"""What `BoundedCache` can do on a model, tried out: a word and a number for each of `TRIALS`.

The reference is one pass over the whole text without any cache, in which each layer's attention
gets a mask that is written here in plain comparisons of positions. It shares no code with the cache
or with `kvlib.models.masks`: where the two agree, neither the model's own way of making masks nor
ours is to blame.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo.testing
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kvlib.cache.bounded import BoundedCache

BUDGET, N_SINK, LENGTH = 16, 4, 40  # entries, sinks, tokens of a text
FEED = (13, 1, 1, 1, 1, 2, 1, 1, 9, 1, 1, 8)  # tokens a forward
LENGTHS = (LENGTH, 22, 5)  # of a batch padded on the left: over the budget, within a chunk, short
NEW = 12  # tokens that are written
DRAFT = 5  # tokens an assistant drafts, and evicted entries that are kept for it
ROUNDING = 1e-4  # of float32, relative to the largest logit, or to 1 where that is less
HALF = 2.0  # how much further from one pass than that pass is from float32: two roundings
CACHES = {"past_key_values", "layer_past", "past_key_value", "cache"}  # as classes call them
WARM = 4  # forwards of one token after which a compiled model must be compiled


Text = Int[Tensor, " tokens"]
Mask = Bool[Tensor, "rows _ queries entries"] | Float[Tensor, "rows _ queries entries"]


class Found(NamedTuple):
    """Of one trial: `yes` or `no`, a number where there is one, and why not."""

    word: str
    number: float | None = None
    reason: str = ""


def tried(model: Any, names: tuple[str, ...] | None = None, seed: int = 0) -> dict[str, Found]:
    """Every one of `TRIALS`, or those of `names`, on a model in float32.

    A model that `BoundedCache` refuses gets its message for all. Raises ValueError for a model on
    which nothing can be found out: one whose laws do not depend on what the cache drops.
    """
    names = names or tuple(TRIALS)
    try:
        BoundedCache(BUDGET, N_SINK, model=model).close()
    except ValueError as error:
        return dict.fromkeys(names, Found("no", reason=str(error)))
    text = some_text(model, LENGTH, seed)
    _check_that_it_can_fail(model, text)
    found = {}
    for name in names:
        try:
            found[name] = TRIALS[name](model, text)
        except ValueError as error:  # of the cache, most likely
            found[name] = Found("no", reason=_first_line(error))
        except Exception as error:  # whatever a class of theirs raises is the answer
            found[name] = Found("no", reason=f"{type(error).__name__}: {_first_line(error)}")
    return found


def some_text(model: Any, tokens: int, seed: int = 0) -> Text:
    """(tokens,) random ids that no configuration means anything by."""
    text_config = model.config.get_text_config()
    ids = np.random.default_rng(seed).integers(3, text_config.vocab_size, tokens)
    return torch.from_numpy(ids).to(model.device)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "without a word").splitlines()[0]


# --- the reference ------------------------------------------------------------------------------


def attentions(model: Any) -> list[torch.nn.Module]:
    """The attention module of each layer: the innermost ones that take a mask and a cache."""
    named = {
        name: module
        for name, module in model.named_modules()
        if "attention_mask" in (taken := inspect.signature(module.forward).parameters)
        and CACHES & taken.keys()
    }
    inner = [name for name in named if not any(_within(other, name) for other in named)]
    return [named[name] for name in inner]


def _within(name: str, outer: str) -> bool:
    """Whether a module is a part of another, by their names."""
    return name != outer and name.startswith(f"{outer}." if outer else "")


def window_of(model: Any, layer: int, module: torch.nn.Module) -> int:
    """The layer's own window in tokens, as its class or its configuration says; 0: none."""
    config = model.config.get_text_config()
    if kinds := getattr(config, "layer_types", None):
        sliding = kinds[layer] == "sliding_attention"
        return int(config.sliding_window) if sliding else 0
    return int(getattr(module, "sliding_window", getattr(config, "sliding_window", None)) or 0)


def seen(tokens: int, budget: int, n_sink: int, window: int) -> Bool[Tensor, "tokens tokens"]:
    """(tokens, tokens) bool, the definition: row t has {0..n_sink-1} ∪ {t-(budget-n_sink)+1..t},
    and of these what is less than `window` tokens old in a layer that has one."""
    query, entry = torch.arange(tokens)[:, None], torch.arange(tokens)[None, :]
    kept = (entry > query - (budget - n_sink)) | (entry < n_sink)
    near = (query - entry < window) if window else torch.ones_like(kept)
    return kept & near & (entry <= query)


def in_form(theirs: Mask | None, mask: Bool[Tensor, "rows 1 queries entries"], model: Any) -> Mask:
    """`mask`, True where seen, in the form of the causal mask that the layer would have got."""
    bool_means_seen = theirs is None and model.config._attn_implementation != "eager"
    if theirs is not None and theirs.dtype == torch.bool:
        bool_means_seen = bool(theirs.flatten()[0])  # the first query and entry: seen
        return mask if bool_means_seen else ~mask
    if bool_means_seen:
        return mask
    dtype = model.dtype if theirs is None else theirs.dtype
    hidden = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, hidden)


@contextmanager
def under_the_definition(model: Any, budget: int = BUDGET, n_sink: int = N_SINK) -> Iterator[None]:
    """Within it, forwards over whole texts without padding and without cache see as defined."""
    hooks = []

    def put(layer: int) -> Callable:
        def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple:
            given = inspect.signature(module.forward).bind_partial(*args, **kwargs)
            rows, tokens, _ = _hidden(given.arguments).shape
            mask = seen(tokens, budget, n_sink, window_of(model, layer, module))
            mask = mask.to(model.device).expand(rows, 1, -1, -1)
            theirs = given.arguments.get("attention_mask")
            given.arguments["attention_mask"] = in_form(theirs, mask, model)
            return given.args, given.kwargs

        return before

    try:
        for layer, module in enumerate(attentions(model)):
            hooks.append(module.register_forward_pre_hook(put(layer), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hidden(arguments: dict[str, Any]) -> Float[Tensor, "batch tokens width"]:
    """What goes into an attention: (batch, tokens, width)."""
    return next(each for each in arguments.values() if isinstance(each, torch.Tensor))


def expected(model: Any, text: Text) -> Float[Tensor, "tokens vocabulary"]:
    """Logits (tokens, vocabulary) of one pass under the definition."""
    with torch.inference_mode(), under_the_definition(model):
        return model(text[None], use_cache=False).logits[0].float()


def _check_that_it_can_fail(model: Any, text: Text) -> None:
    """Masks reach the layers: a causal one changes nothing, the definition does."""
    with torch.inference_mode():
        plain = model(text[None], use_cache=False).logits[0]
        with under_the_definition(model, budget=LENGTH + 1):
            causal = model(text[None], use_cache=False).logits[0]
    same = 10 * _bound(plain)
    apart = _apart(expected(model, text), plain)
    if not _apart(causal, plain) < same < 10 * same < apart:
        raise ValueError(
            f"{type(model).__name__}: expected laws that follow a mask in each layer, got "
            f"{_apart(causal, plain):.1g} under a causal one and {apart:.1g} under the cache's"
        )


def _apart(one: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]) -> float:
    return float((one.float() - other.float()).abs().max())


def _bound(logits: Float[Tensor, "*shape"]) -> float:
    """What rounding may do to logits, in a cache that computes in another order."""
    return ROUNDING * max(1.0, float(logits.abs().max()))


def _close(
    pairs: list[tuple[Float[Tensor, "_ vocabulary"], Float[Tensor, "_ vocabulary"]]],
) -> Found:
    """Whether logits are those expected; the largest distance between two of them."""
    worst = max(_apart(got, wanted) for got, wanted in pairs)
    if worst <= max(_bound(wanted) for _, wanted in pairs):
        return Found("yes", worst)
    return Found("no", worst, "its laws are others than those of one pass")


# --- the trials ---------------------------------------------------------------------------------


def fed(
    model: Any, ids: Int[Tensor, "rows tokens"], mask: Int[Tensor, "rows tokens"] | None = None
) -> Float[Tensor, "rows tokens vocabulary"]:
    """Logits (rows, tokens, vocabulary) when a cache is fed some tokens at a time."""
    cache, parts, end = BoundedCache(BUDGET, N_SINK, model=model), [], 0
    with torch.inference_mode():
        for size in FEED:
            end += size
            given = {} if mask is None else {"attention_mask": mask[:, :end]}
            part = ids[:, end - size : end]
            parts.append(model(part, past_key_values=cache, use_cache=True, **given).logits)
    cache.close()
    return torch.cat(parts, dim=1).float()


def exact(model: Any, text: Text) -> Found:
    """One text in pieces of several sizes: the logits of one pass; the largest distance."""
    return _close([(fed(model, text[None])[0], expected(model, text))])


def batch(model: Any, text: Text) -> Found:
    """Two texts at once: each as if alone; the largest distance."""
    texts = torch.stack([text, some_text(model, LENGTH, seed=1)])
    rows = zip(fed(model, texts), texts, strict=True)
    return _close([(row, expected(model, one)) for row, one in rows])


def padding(model: Any, text: Text) -> Found:
    """Three beginnings of a text, padded on the left: each as if alone; the largest distance."""
    mask = torch.zeros(len(LENGTHS), LENGTH, dtype=torch.long, device=model.device)
    ids, wanted = torch.zeros_like(mask), expected(model, text)
    for row, n in enumerate(LENGTHS):
        mask[row, LENGTH - n :], ids[row, LENGTH - n :] = 1, text[:n]
    logits = fed(model, ids, mask)
    if not bool(logits.isfinite().all()):
        return Found("no", reason="padding makes numbers that are not finite")
    return _close([(logits[row, LENGTH - n :], wanted[:n]) for row, n in enumerate(LENGTHS)])


def written(model: Any, ids: Int[Tensor, "rows tokens"], **settings: Any) -> Any:
    """What `generate` returns for NEW greedy tokens."""
    fixed: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW}
    fixed |= {"do_sample": False, "pad_token_id": 0}
    fixed |= {"return_dict_in_generate": True, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        return model.generate(ids, **(fixed | settings))


def beams(model: Any, text: Text) -> Found:
    """Three beams of two prompts: those that are found when every token is a whole pass."""
    prompts = torch.stack([text[:20], text[20:40]])
    with under_the_definition(model):
        wanted = written(model, prompts, num_beams=3, use_cache=False).sequences
    cache = BoundedCache(BUDGET, N_SINK, model=model)
    out = written(model, prompts, num_beams=3, past_key_values=cache)
    return _same(out, wanted, cache)


def assisted(model: Any, text: Text) -> Found:
    """Drafts by look-up in the prompt and by a clumsy copy of the model: the text is the same."""
    prompt = text[:10].repeat(2)[None]  # something to be looked up
    plain = BoundedCache(BUDGET, N_SINK, model=model)
    wanted = written(model, prompt, past_key_values=plain).sequences
    plain.close()
    for settings in ({"prompt_lookup_num_tokens": DRAFT}, {"assistant_model": clumsy(model)}):
        cache = BoundedCache(BUDGET, N_SINK, model=model, rollback=DRAFT)
        found = _same(written(model, prompt, past_key_values=cache, **settings), wanted, cache)
        if found.word != "yes":
            break
    return found


def clumsy(model: Any) -> Any:
    """A copy whose weights are off by a few percent: a drafter that is right now and then."""
    twin, source = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in twin.parameters():
            noise = torch.randn(weights.shape, generator=source).to(weights)
            weights.add_(noise, alpha=0.05 * float(weights.std(correction=0)))
    twin.generation_config.num_assistant_tokens = DRAFT
    twin.generation_config.assistant_confidence_threshold = 0.0
    return twin


def _same(out: Any, wanted: Int[Tensor, "rows tokens"], cache: BoundedCache) -> Found:
    """Whether the text is that expected, and the cache still the one that was handed in."""
    if out.past_key_values is not cache:
        return Found("no", reason="the class puts another cache in its place")
    cache.close()
    if torch.equal(out.sequences, wanted):
        return Found("yes")
    first = int((out.sequences != wanted).any(0).nonzero()[0]) - wanted.shape[1] + NEW
    return Found("no", reason=f"another text from its token {first + 1} on")


def half(model: Any, text: Text) -> Found:
    """In bfloat16 the cache is as near to one pass as that is to float32; the ratio of distances,
    root mean squares of a token's logits, the median over tokens: where rounding sends a token to
    another expert it is far off in both."""
    exactly, twin = expected(model, text), copy.deepcopy(model).bfloat16()
    one, got = expected(twin, text), fed(twin, text[None])[0]
    ours, theirs = (d.square().mean(-1).sqrt().median() for d in (got - one, one - exactly))
    ratio = float(ours / theirs)
    if ratio <= HALF:
        return Found("yes", ratio)
    return Found("no", ratio, "further from one pass than bfloat16 is from float32")


def compiled(model: Any, text: Text) -> Found:
    """Steps of one token through `torch.compile`, behind a prompt that has filled the cache: the
    logits of one pass, and none that is compiled anew once a few have gone through; the number of
    graphs."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    fast = torch.compile(model, backend=counter)
    cache, graphs = BoundedCache(BUDGET, N_SINK, model=model), []
    prompt, *steps = text.split([LENGTH - NEW] + [1] * NEW)
    with torch.inference_mode(), _silent():
        parts = [model(prompt[None], past_key_values=cache, use_cache=True).logits[0]]
        for token in steps:
            parts.append(fast(token[None], past_key_values=cache, use_cache=True).logits[0])
            graphs.append(counter.frame_count)
    cache.close()
    torch._dynamo.reset()
    found = _close([(torch.cat(parts), expected(model, text))])
    if found.word != "yes":
        return found
    if graphs[-1] > graphs[WARM]:
        return Found("no", graphs[-1], "it is compiled again and again")
    return found._replace(number=float(graphs[-1]))


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch says of graphs that break."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


TRIALS: dict[str, Callable[[Any, torch.Tensor], Found]] = {
    "exact": exact,
    "batch": batch,
    "padding": padding,
    "beams": beams,
    "assisted": assisted,
    "bf16": half,
    "compiled": compiled,
}
