"""Whether a lossy codec pays here: what it saves on the wire against what it costs to encode and decode."""

from __future__ import annotations

from dataclasses import dataclass

from ..codecs import by_name as codec_by_name
from .costs import Costs, Layout
from .plan import Plan

__all__ = ["Worth", "worth"]


@dataclass(frozen=True)
class Worth:
    """A codec on these ranks, for large arrays. Speeds in bytes per second.

    speedup: over the same ring without a codec (below 1: it costs more than it saves). link: the speed of the slowest link, both ways at
    once. break_even: the speed below which it pays; infinite for a codec that costs nothing. bypassed: these ranks reduce through shared
    memory, where nothing is encoded. True in an `if` where it pays.
    """

    codec: str
    speedup: float
    link: float
    break_even: float
    bypassed: bool

    @property
    def pays(self) -> bool:
        """Whether it makes large all-reduces faster here."""
        return self.speedup > 1 and not self.bypassed

    def __bool__(self) -> bool:
        return self.pays

    def __str__(self) -> str:
        below = f"it pays on networks below {speed_text(self.break_even)}"
        if self.bypassed:
            return f"{self.codec} does not pay: these ranks share memory, where nothing is encoded; {below}"
        if not self.pays:
            return f"{self.codec} does not pay: the link has {speed_text(self.link)}; {below}"
        return f"{self.codec} pays: {self.speedup:.2g} times faster over {speed_text(self.link)}; {below}"


def worth(codec: str, costs: Costs, plan: Plan, layout: Layout) -> Worth | None:
    """Whether `codec` pays on ranks of that layout; None where its costs were not measured, or nobody communicates.

    A ring of p ranks (or nodes) sends 2n(p-1)/p bytes per rank, encodes n and decodes n(2p-1)/p. That these overlap with sending is not
    counted on: it may pay a little above the break-even too.
    """
    coding = dict(costs.codecs).get(codec_by_name(codec).name)
    if coding is None or layout.size == 1:
        return None
    between = layout.count > 1 and costs.network is not None
    p, link = (layout.count, costs.network) if between else (layout.size, costs.node)
    assert link is not None
    per_byte, moved = link.per_byte(plan.segment), 2 * (p - 1) / p
    work, saved = coding.encode + coding.decode * (2 * p - 1) / p, moved * (1 - coding.ratio)
    bypassed = plan.choose(1 << 22, exact=False, windowed=True).collective == "shared-memory"
    break_even = saved / work if work > 0 else float("inf")
    return Worth(codec, moved * per_byte / (moved * per_byte * coding.ratio + work), 1 / per_byte, max(break_even, 0.0), bypassed)


def speed_text(speed: float) -> str:
    """Bytes per second as the speed of a network.

    >>> speed_text(25e6), speed_text(12.5e9)
    ('200 Mbit/s', '100 Gbit/s')
    """
    return f"{8 * speed / 1e6:.3g} Mbit/s" if 8 * speed < 999.5e6 else f"{8 * speed / 1e9:.3g} Gbit/s"
