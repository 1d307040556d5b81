"""What a study would cost: counts are those of the model's own forwards."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter

import numpy as np
import pytest

from kvlib import store, study
from kvlib.measure import truncation
from kvlib.study import estimate, hardware, shapes
from kvlib.study.counts import COUNTED, Pass, counted

DOCS = 2


class Text:
    """Documents of random tokens, as a corpus gives them."""

    name = "random"

    def documents(self, tokenizer, stride, docs, seed):
        return list(np.random.default_rng(seed).integers(1, 250, (docs, stride)))


def asked(kind: str, **settings) -> dict:
    """All settings of a kind, with those that are said."""
    known = study.KINDS[kind].settings
    return {k: v for k, v in known.items() if not isinstance(v, type)} | settings


POLICIES = {"seq_len": 96, "stride": 96, "every": 8, "step": 4}
BOTH = {"budgets": [8, 24, 200]}
WIDE = {"budgets": [40, 200]}  # SnapKV needs 34
STUDIES = [
    asked("truncation_sensitivity", seq_len=192, stride=192, max_window=64, pairs_per_octave=64)
    | {"kind": "truncation_sensitivity"},
    asked("truncation_sensitivity", seq_len=192, stride=192, max_window=32, pairs_per_octave=64)
    | {"kind": "truncation_sensitivity", "thin": 2, "contexts": [64, 100], "twice": 5},
    *(
        asked("policy_distortion", protocol=protocol, policies=policies, **POLICIES)
        | (WIDE if "snapkv" in policies else BOTH)
        | {"kind": "policy_distortion"}
        for protocol, policies in (
            ("reencode", ["sliding", "sinks", "random"]),
            ("online", ["sliding", "random", "random-heads", "sinks-cache-positions"]),
            ("online", ["h2o", "tova", "key-norm"]),
            ("prefill", ["sinks", "random-heads"]),
            ("prefill", ["snapkv", "expected-attention", "h2o", "sliding"]),
        )
    ),
    asked("passage", policies=["sinks", "random"], budgets=[8, 24], context=60, shown=20)
    | {"kind": "passage", "stride": 96},
    asked("diagnostics", seq_len=96, stride=96, windows=[4, 16], targets=3)
    | {"kind": "diagnostics"},
    asked("positions", seq_len=96, stride=96, windows=[4, 16], targets=3)
    | {"kind": "positions", "variants": ["restarted", "kept", "shuffled"]},
    asked("cache_run", budget=40, tokens=500, every=50, prompt=16) | {"kind": "cache_run"},
]


def names(settings: dict) -> str:
    return "-".join([settings["kind"], settings.get("protocol", ""), *settings.get("policies", [])])


class Meter:
    """What passes through a model's body and head, by hooks."""

    def __init__(self, lm) -> None:
        self.lm, self.passes, self.head = lm, Counter(), 0

    def __enter__(self) -> Meter:
        body, head = self.lm.model.base_model, self.lm.model.get_output_embeddings()
        self.hooks = [
            body.register_forward_pre_hook(self._body, with_kwargs=True),
            head.register_forward_hook(self._head),
        ]
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    def _body(self, module, args, kwargs) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        cache = kwargs.get("past_key_values")
        before = 0
        if (
            cache is not None
            and cache.layers
            and getattr(cache.layers[0], "keys", None) is not None
        ):
            before = cache.layers[0].keys.shape[-2]
        self.passes[*ids.shape, before] += 1

    def _head(self, module, args, out) -> None:
        self.head += out.numel() // out.shape[-1]


@pytest.mark.parametrize("prefix", [(), (256,)], ids=["bare", "bos"])
@pytest.mark.parametrize("settings", STUDIES, ids=names)
def test_counts_are_what_goes_through_a_model(tiny, settings, prefix):
    lm = dataclasses.replace(tiny, prefix_ids=prefix)
    kind = settings["kind"]
    module = importlib.import_module(f"kvlib.{study.KINDS[kind].module}")
    rows = module.item_rows(lm, Text(), settings, DOCS)
    works = [counted(kind, settings, doc, len(prefix)) for doc in range(DOCS)]
    with Meter(lm) as meter:
        tables = [rows(doc) for doc in range(DOCS)]
    seen = Counter()
    for work in works:
        for one, many in work.passes.items():
            seen[one.batch, one.tokens] += many
    found = Counter()
    for (batch, tokens, _before), many in meter.passes.items():
        found[batch, tokens] += many
    assert seen == found
    assert sum(w.tokens for w in works) == sum(b * t * n for (b, t, _), n in meter.passes.items())
    assert sum(work.head for work in works) == meter.head
    assert [work.rows for work in works] == [len(table) for table in tables]


@pytest.mark.parametrize(
    "settings", [s for s in STUDIES if s.get("protocol") in ("online", "prefill")], ids=names
)
def test_what_stands_in_the_cache_is_counted(tiny, settings):
    kind = settings["kind"]
    module = importlib.import_module(f"kvlib.{study.KINDS[kind].module}")
    rows = module.item_rows(tiny, Text(), settings, 1)
    with Meter(tiny) as meter:
        rows(0)
    work = counted(kind, settings, 0, len(tiny.prefix_ids))
    seen = sum(many * one.read * one.before for one, many in work.passes.items())
    found = sum(b * t * before * many for (b, t, before), many in meter.passes.items())
    assert seen == pytest.approx(found, rel=0.05) and seen > 0


def test_pairs_by_hand():
    assert Pass("plain", 2, 4).pairs == 2 * (1 + 2 + 3 + 4)
    assert Pass("plain", 1, 2, 10).pairs == 11 + 12
    assert Pass("masked", 1, 2, 10).pairs == Pass("eager", 1, 2, 10).pairs == 2 * 12


def test_every_kind_with_a_model_is_counted():
    with_model = {kind for kind, what in study.KINDS.items() if "model" in what.settings}
    others = {"drafting", "kv_rates"}  # rounds depend on what is drafted; fits take most time
    assert COUNTED.keys() | others == with_model and not COUNTED.keys() & others


def test_stored_tables_have_the_rows_that_are_counted():
    """Of all of the book's tables that run a model, to the row."""
    compared = 0
    for one in study.studies():
        if one.kind not in COUNTED or study.state(one).word != "complete":
            continue
        shape = shapes.SHAPES[one.settings["model"]]
        priced = estimate.cost(one, shape, estimate.Pace(lambda work: 1.0, 0.0))
        assert priced.rows == study.state(one).rows, one.table
        compared += 1
    assert compared > 30


def test_a_stored_row_weighs_what_is_assumed():
    counted_ = [
        (table.path.stat().st_size, table.manifest["rows"])
        for table in store.tables()
        if table.settings.get("kind") in ("truncation_sensitivity", "policy_distortion")
    ]
    size, rows = np.sum(counted_, axis=0)
    assert size / rows == pytest.approx(estimate.ROW_BYTES, rel=0.25)


# --- shapes and cards -----------------------------------------------------------------------------

PUBLISHED = {  # billions of parameters, as their makers say
    "smollm2-135m-instruct": 0.1345,
    "gemma3-270m": 0.268,
    "Qwen2.5-0.5B": 0.494,
    "Qwen2.5-1.5B": 1.54,
    "Qwen2.5-3B": 3.09,
    "Qwen2.5-7B": 7.62,
    "Qwen2.5-72B": 72.7,
    "Llama-3.2-1B": 1.24,
    "Llama-3.2-3B": 3.21,
    "Llama-3.1-8B": 8.03,
    "Llama-3.1-70B": 70.6,
    "Mistral-7B-v0.3": 7.25,
    "Phi-3.5-mini": 3.82,
    "gemma-2-2b": 2.61,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shapes_have_the_published_parameters(name):
    assert shapes.SHAPES[name].parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


def test_a_shape_is_read_from_a_config_and_is_that_of_the_weights(tiny, tiny_folder, small):
    for lm, shape in (
        (tiny, shapes.shape_of(str(tiny_folder))),
        (small, shapes.from_config("small", small.model.config.to_dict())),
    ):
        weights = sum(weight.numel() for weight in lm.model.parameters() if weight.ndim > 1)
        places = getattr(lm.model.base_model, "wpe", None)
        weights -= places.weight.numel() if places is not None else 0
        assert shape.parameters == weights
    assert small.model.config.n_layer == shapes.SHAPES["small-gpt2"].layers
    assert shapes.SHAPES["small-gpt2"].parameters == shape.parameters


def test_a_folder_says_what_stands_before_its_texts(tiny_folder, tmp_path):
    assert shapes.shape_of(str(tiny_folder)).prefix == 0
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    rules = json.loads((tmp_path / "tokenizer.json").read_text())
    rules["post_processor"] = {"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    assert shapes.shape_of(str(tmp_path)).prefix == 1
    (tmp_path / "tokenizer.json").unlink()
    assert shapes.shape_of(str(tmp_path)).prefix == 1


def test_a_shape_that_is_not_known_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"model: expected one of small-gpt2, .*, got 'none'"):
        shapes.shape_of("none")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10}))
    with pytest.raises(ValueError, match=r"expected a model's sizes, got none of 'hidden_size'"):
        shapes.shape_of(str(tmp_path))
    assert shapes.shape_of("Qwen/Qwen2.5-7B") is shapes.SHAPES["Qwen2.5-7B"]


def test_a_machine_is_a_number_and_a_card():
    assert hardware.machine_of("8xH100") == hardware.machine_of(" 8 x h100")
    assert hardware.machine_of("H200").cards == 1
    for bad in ("", "8x", "0xH100", "8xT5", "x H100", "-1xH100"):
        with pytest.raises(ValueError, match=r"hardware: expected a number and one of A100-40GB"):
            hardware.machine_of(bad)


def test_the_cards_are_in_order():
    """What no datasheet contradicts: half precision is faster, and what is newer too."""
    cards = hardware.CARDS
    assert all(card.bf16_tflops >= card.fp32_tflops > 0 for card in cards.values())
    assert cards["a100-80gb"].bf16_tflops < cards["h100-pcie"].bf16_tflops
    assert cards["h100"].bandwidth_gbs < cards["h200"].bandwidth_gbs
    assert all(card.source for card in cards.values())


# --- hours ----------------------------------------------------------------------------------------


def sensitivity(model: str, docs: int = 24, dtype: str = "bfloat16") -> study.Study:
    settings = {"model": model, "corpus": "world-english-bible", "dtype": dtype}
    settings = asked("truncation_sensitivity", **settings)
    return study.Study("table", "truncation_sensitivity", settings, docs)


def on(machine: str, *studies: study.Study, **options) -> estimate.Estimate:
    return estimate.on_machine(studies, hardware.machine_of(machine), **options)


def test_a_large_model_takes_what_its_products_take():
    """Where launches and rows are small, hours are operations over the rate that is assumed."""
    shape, card = shapes.SHAPES["Llama-3.1-70B"], hardware.CARDS["h200"]
    pace = estimate.elsewhere(shape, card, "bfloat16", share=0.35)
    work = counted("truncation_sensitivity", sensitivity("m").settings, 0, 1)
    pairs = sum(one.pairs * many for one, many in work.passes.items())
    operations = 2 * shape.body * work.tokens + 4 * shape.layers * shape.width * pairs
    operations += 2 * shape.width * shape.vocab * work.head
    assert pace.seconds(work) == pytest.approx(operations / (0.35 * 989e12), rel=0.3)
    assert pace.seconds(work) > operations / (0.35 * 989e12)


def test_more_cards_divide_hours_but_not_below_the_longest_item():
    one, many = on("H100", sensitivity("Qwen2.5-7B")), on("1000xH100", sensitivity("Qwen2.5-7B"))
    (cost,) = one.costs
    assert one.seconds == pytest.approx(sum(cost.seconds) + cost.load_seconds)
    assert on("8xH100", sensitivity("Qwen2.5-7B")).seconds == pytest.approx(
        sum(cost.seconds) / 8 + cost.load_seconds, rel=0.02
    )
    assert many.seconds == pytest.approx(max(cost.seconds) + cost.load_seconds)


def test_a_model_larger_than_a_card_takes_several_or_is_left_out():
    big = sensitivity("Llama-3.1-70B")
    assert (on("4xH100", big).workers, on("4xH100", big).cards) == (2, 2)
    left = on("H100", big)
    assert left.costs == [] and "needs 143 GB: 2 x H100, got 1" in left.left_out[0]
    assert on("H200", big, model="", dtype="float32").costs == []


def test_starts_go_together_as_many_as_a_card_has_room_for():
    shape, card = shapes.SHAPES["Llama-3.1-70B"], hardware.CARDS["h200"]
    narrow = estimate.elsewhere(shape, card, "bfloat16")
    wide = estimate.elsewhere(shape, card, "bfloat16", cards=4)
    assert truncation.BATCH_TOKENS <= narrow.at_once < wide.at_once
    one = sensitivity("Llama-3.1-70B")
    few, many = (estimate.works_of(one, 1, pace.at_once) for pace in (wide, narrow))
    for less, more in zip(few, many, strict=True):
        assert less.forwards < more.forwards and less.tokens == more.tokens
        assert (less.rows, less.head) == (more.rows, more.head)


def test_memory_grows_with_weights_cache_and_precision():
    shape = shapes.SHAPES["Qwen2.5-7B"]
    work = counted("truncation_sensitivity", sensitivity("m").settings, 0, 0)
    small, large = (estimate.memory(shape, [work], dtype) for dtype in ("bfloat16", "float32"))
    assert shape.weight_bytes("bfloat16") < small < shape.weight_bytes("float32") < large
    work.cached = True
    cache = 2 * 3072 * shape.cache_bytes("bfloat16")
    assert estimate.memory(shape, [work], "bfloat16") - small == pytest.approx(cache, rel=0.05)


def test_a_calibration_foretells_a_pass(tiny):
    pace = estimate.here(tiny, 0.0)
    work = counted("truncation_sensitivity", STUDIES[0], 0, 0)
    assert 0 < pace.seconds(work) < 5


def test_other_models_and_precisions_take_the_place_of_the_declared():
    declared = study.chosen(study.studies(), ["sensitivity"])
    new = estimate.adapted(declared, "meta-llama/Llama-3.1-8B", "bfloat16")
    assert 0 < len(new) < len(declared) and {one.settings["dtype"] for one in new} == {"bfloat16"}
    assert new[0].table == "sensitivity-Llama-3.1-8B-world-english-bible"
    with pytest.raises(ValueError, match="dtype: expected one of float32, .*, got 'int4'"):
        estimate.adapted(declared, dtype="int4")


def test_what_is_told_names_every_table_and_what_was_left_out():
    these = study.chosen(study.studies(), ["sensitivity", "calibration"])
    said = estimate.told(on("8xH100", *these), "on 8 x H100")
    tables = [line.split()[0] for line in said.splitlines() if line.startswith("sensitivity-")]
    assert tables == [one.table for one in these if one.kind != "calibration"] and tables
    assert "calibration: not estimated" in said
    assert said.splitlines()[-1].startswith("on 8 x H100: ")
    assert "35%" in estimate.assumed(0.35)


@pytest.mark.parametrize(
    ("number", "said"),
    [(0.5, "0.5 s"), (99, "99 s"), (600, "10 min"), (7200, "2 h"), (3.6e7, "10,000 h")],
)
def test_durations_read_well(number, said):
    assert estimate.duration(number) == said


def test_bytes_read_well():
    assert [estimate.in_bytes(n) for n in (500, 2e6, 1.413e11)] == ["0.5 kB", "2 MB", "141 GB"]


def test_a_kind_that_is_not_counted_says_why():
    assert estimate.uncounted("readers") == "runs no model"
    assert estimate.uncounted("kv_rates").startswith("spends most of its time on fits")
    assert estimate.uncounted("drafting").startswith("runs until it is through")
    left_out = {"drafting", "kv_rates", "readers", "bends", "calibration"}
    assert set(study.KINDS) - COUNTED.keys() == left_out
