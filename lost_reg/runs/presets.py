"""Named protocols: what `--protocol NAME` stands for, for a backbone of the table."""

from __future__ import annotations

from lost_reg.backbones.zoo import BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.types import AUTO, Protocol

# Darcet et al. 2024 and Jiang et al. 2025 take values for these families, keys for all others.
_FAMILIES_OF_VALUES = ("DeiT-III", "OpenCLIP")


PRESETS = ("lost", "registers")


def preset_protocol(name: str, spec: BackboneSpec) -> Protocol:
    """The protocol that a preset means for a backbone.

    lost: Siméoni et al. 2021, raw keys of the last layer.
    registers: L2-normalised keys of the last layer (values for OpenCLIP and DeiT-III), and a bias found in
        each image (see `bias.py`). Not a published protocol: layers and biases of the papers are not known.

    Raises:
        LostRegError: an unknown name.
    """
    if name == "lost":
        return Protocol()
    if name == "registers":
        facet = "v" if spec.family in _FAMILIES_OF_VALUES else "k"
        return Protocol(facet=facet, normalize=True, bias=AUTO)
    raise LostRegError(f"unknown protocol {name!r}: choose among {', '.join(PRESETS)}")
