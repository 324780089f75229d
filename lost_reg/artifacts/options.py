"""What is asked of a measurement of artifacts. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from lost_reg.artifacts.records import CONTROLS, LOST_SETTINGS, RULES, Control, LostSetting, Rule
from lost_reg.errors import LostRegError

FIXED_CUTOFF = 150.0  # Darcet et al.: chosen by hand for DINOv2 ViT-g/14, and "can vary across models"


@dataclass(frozen=True)
class ArtifactOptions:
    """What counts as an outlier.

    layer: the block after which a patch's norm makes it an outlier. The default is the second-to-last,
        whose output LOST's keys are computed from, and where the public DINOv2 ViT-L shows outliers.
    cutoff: the fixed cut-off, a norm.
    rule: which of the three cut-offs the outlier statistics use: "sigma" (mean + 3 standard deviations of
        all patches after that layer), "fixed", or "reference" (98th percentile of a reference model). The
        share of patches above each is recorded in any case.
    controls: what is done to outliers that enter the last block, and to other patches: see `controls.py`.
    seed: of what is random about them.
    lost: which LOST is scored, and gives the controls' seeds: see `LOST_SETTINGS`.
    """

    layer: int = -2
    cutoff: float = FIXED_CUTOFF
    rule: Rule = "sigma"
    controls: tuple[Control, ...] = ()
    seed: int = 0
    lost: LostSetting = "published"

    def __post_init__(self) -> None:
        """Raises LostRegError for an impossible value."""
        if self.rule not in RULES:
            raise LostRegError(f"unknown outlier rule {self.rule!r}: choose among {', '.join(RULES)}")
        if not self.cutoff > 0:
            raise LostRegError(f"expected a cut-off above 0, but got {self.cutoff}")
        for name in self.controls:
            if name not in CONTROLS:
                raise LostRegError(f"unknown control {name!r}: choose among {', '.join(CONTROLS)}")
        if len(set(self.controls)) < len(self.controls):
            raise LostRegError("a control is given twice in `controls`")
        if self.lost not in LOST_SETTINGS:
            raise LostRegError(f"unknown `lost` {self.lost!r}: choose among {', '.join(LOST_SETTINGS)}")
        if self.seed < 0:
            raise LostRegError(f"expected a `seed` of at least 0, but got {self.seed}")


DEFAULT_OPTIONS = ArtifactOptions()
