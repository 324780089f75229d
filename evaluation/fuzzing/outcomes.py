"""What became of hostile files: counts by reason, the slowest, and the one that took the most memory."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness import MIB, markdown_table

from lost_reg.images.decoder_process import DecoderProcess

REASONS_SHOWN = 12


@dataclass
class Outcomes:
    """What became of the files.

    taken: how many were read. reasons: of those that were refused. ended: those whose process crashed or had
    to be ended. slowest, largest: the most seconds and bytes that a file took, and its name.
    """

    taken: int = 0
    reasons: Counter = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    ended: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        return self.taken + self.reasons.total()

    def add(self, name: str, reason: str | None, seconds: float, memory: int) -> None:
        """Count a file; reason: why it was refused."""
        if reason is None:
            self.taken += 1
        else:
            self.reasons[kind_of(reason)] += 1
            if has_ended_process(reason):
                self.ended.append(f"{name}: {reason}")
        self.slowest = max(self.slowest, (seconds, name))
        self.largest = max(self.largest, (memory, name))


def kind_of(reason: str) -> str:
    """A reason without what is peculiar to one file."""
    return re.sub(r"[0-9][0-9,.]*", "N", reason.split(" (")[0])[:60]


def has_ended_process(reason: str | None) -> bool:
    return reason is not None and reason.startswith(("crashed", "took more"))


def most_memory(process: DecoderProcess) -> int:
    """The most bytes that a decoding process has held since this was last asked."""
    running = process._process
    if running is None or running.poll() is not None:
        return 0
    folder = Path(f"/proc/{running.pid}")
    kilobytes = int(re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())[1])
    (folder / "clear_refs").write_text("5")
    return 1024 * kilobytes


def table(what: str, outcomes: Outcomes, taken: str = "decoded") -> str:
    """A table of the outcomes; what, taken: the words for the files and for those that were read."""
    shown = outcomes.reasons.most_common(REASONS_SHOWN)
    others = outcomes.reasons.total() - sum(count for _, count in shown)
    (seconds, slowest), (memory, largest) = outcomes.slowest, outcomes.largest
    rows = [
        (taken, f"{outcomes.taken:,}"),
        *((reason, f"{count:,}") for reason, count in shown),
        *([("refused for other reasons", f"{others:,}")] if others else []),
        ("crashes and hangs, which the run survived", len(outcomes.ended)),
        ("longest", f"{seconds:.1f} s ({slowest})"),
        ("most memory of a process", f"{memory / MIB:,.0f} MiB ({largest})"),
    ]
    ended = "".join(f"\n- {line}" for line in outcomes.ended[:20])
    return f"{markdown_table([what, f'{outcomes.files:,} files'], rows)}\n{ended}"
