"""Machines that are not here: what their makers say of them, and what is assumed of the rest."""

from __future__ import annotations

import re
from typing import NamedTuple


class Card(NamedTuple):
    """A card, or a core of a processor: dense rates (no sparsity) of matrix products in bfloat16
    and in float32 (no TF32), memory, its bandwidth, and where the figures come from."""

    name: str
    bf16_tflops: float
    fp32_tflops: float
    memory_gb: float
    bandwidth_gbs: float
    source: str

    def flops(self, dtype: str) -> float:
        """Peak operations a second at a precision; float64 is taken for half of float32."""
        rates = {"float32": self.fp32_tflops, "float64": self.fp32_tflops / 2}
        return 1e12 * rates.get(dtype, self.bf16_tflops)


CARDS = {
    card.name.lower(): card
    for card in (
        Card("A100-40GB", 312, 19.5, 40, 1555, "NVIDIA A100 datasheet, SXM"),
        Card("A100-80GB", 312, 19.5, 80, 2039, "NVIDIA A100 datasheet, SXM"),
        Card("H100", 989, 67, 80, 3350, "NVIDIA H100 datasheet, SXM"),
        Card("H100-PCIe", 756, 51, 80, 2000, "NVIDIA H100 datasheet, PCIe"),
        Card("H200", 989, 67, 141, 4800, "NVIDIA H200 datasheet, SXM"),
        Card("L40S", 362, 91.6, 48, 864, "NVIDIA L40S datasheet"),
        Card("RTX-4090", 165, 82.6, 24, 1008, "NVIDIA Ada architecture whitepaper"),
        Card("A10G", 70, 35, 24, 600, "AWS and NVIDIA, A10G of EC2 G5"),
        Card("MI300X", 1307, 163.4, 192, 5300, "AMD MI300X datasheet"),
        Card("CPU-core", 0.16, 0.16, 4, 10, "AVX-512: 2 units · 16 numbers · 2 · 2.5 GHz"),
    )
}

# Assumptions, all of them said where they are used.
SHARE = 0.35  # of the peak that products reach in PyTorch without a compiler: 0.3 to 0.4
LAUNCH = 5e-4  # seconds a layer and forward that no card saves: eager kernels one after another
ROW_PASSES = 14  # times that a row of logits goes through memory: laws, differences, sums
ROOM = 0.9  # of a card's memory that may be filled
LOAD_RATE = 1e9  # bytes a second at which a worker reads weights
START = 20.0  # seconds until a worker has imported torch and read its text


class Machine(NamedTuple):
    """So many cards of one kind."""

    cards: int
    card: Card

    def cards_each(self, worker_bytes: float) -> int:
        """Cards that one worker needs for its memory; its layers are spread over them."""
        return max(1, -int(-worker_bytes // (ROOM * 1e9 * self.card.memory_gb)))

    def workers(self, worker_bytes: float) -> int:
        """Workers that fit: none where one worker needs more cards than there are."""
        return self.cards // self.cards_each(worker_bytes)


def machine_of(text: str) -> Machine:
    """`8xH100`, or `H100` for one. Raises ValueError that names the known cards."""
    found = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?(\S.*)", text.strip(), re.IGNORECASE)
    name = found[2].lower() if found else ""
    if found is None or name not in CARDS or found[1] and int(found[1]) < 1:
        known = ", ".join(card.name for card in CARDS.values())
        raise ValueError(
            f"hardware: expected a number and one of {known}, as in 8xH100, got {text!r}"
        )
    return Machine(int(found[1] or 1), CARDS[name])
