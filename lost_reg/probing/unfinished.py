"""What a probe keeps until it is finished, in the folder `unfinished`."""

from __future__ import annotations

from lost_reg.probing.extraction import CUTOFF_FILE
from lost_reg.probing.records import OUTCOMES_FILE, PROBE_FILE
from lost_reg.probing.token_cache import TOKENS_FILE
from lost_reg.probing.tokens import KINDS
from lost_reg.training.checkpoints import CHECKPOINT_FILE
from lost_reg.training.feature_cache import FEATURE_FILES
from lost_reg.training.work_folder import WorkKind

FEATURES = "features"  # the folder of a `FeatureCache`
PROBE_WORK = WorkKind(
    "probe",
    (
        CUTOFF_FILE,
        TOKENS_FILE,
        CHECKPOINT_FILE,
        *(f"{FEATURES}/{name}" for name in FEATURE_FILES),
        *(f"{kind}/{name}" for kind in KINDS for name in (PROBE_FILE, OUTCOMES_FILE, CHECKPOINT_FILE)),
    ),
)
