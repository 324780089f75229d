"""Which weights a backbone has, where they are found, and which are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.backbones import zoo
from lost_reg.backbones.zoo import BackboneSpec
from lost_reg.errors import LostRegError
from lost_reg.files import file_digest
from lost_reg.text import first_sentence, text_table

HUB_FILE = "model.safetensors"
RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Which weights a backbone has.

    source: "hub", "file", "bundled", "random", or "callable" for features that are the user's own.
    name: what identifies them: the hub repository or the name of the file.
    path, sha256: the file they were read from, if there is one.
    """

    source: str
    name: str
    path: Path | None = None
    sha256: str | None = None

    def recorded(self) -> dict[str, Any]:
        """As recorded in results."""
        return {"source": self.source, "name": self.name, "sha256": self.sha256}


def find_weights(spec: BackboneSpec, weights: str | Path | None = None, *, download: bool = False) -> Weights:
    """Find the weights of a backbone on this machine.

    Args:
        spec: the backbone's row.
        weights: a file; "random" for random weights; None for the backbone's published ones.
        download: whether published weights that are not in the Hugging Face cache are downloaded
            (the hub library verifies them).

    Raises:
        LostRegError: missing weights; says where they were looked for and how to get them.
    """
    if weights == RANDOM:
        return Weights(source="random", name=RANDOM)
    if weights is not None:
        path = weight_file(weights)
        return Weights("file", path.name, path, file_sha256(path))
    if spec.bundled_file is not None:
        path = Path(__file__).parent / "bundled" / spec.bundled_file
        return Weights("bundled", spec.bundled_file, path, file_sha256(path))
    if spec.hub_id is None:
        file = spec.official_file
        remedy = f"get the authors' {file} and give its path" if file else "give a file"
        raise LostRegError(f"no hub carries the weights of {spec.name}: {remedy} as `weights`")
    path = cached_weights(spec) or (_download_weights(spec) if download else None)
    if path is None:
        raise LostRegError(
            f"the weights of {spec.name} are not here (looked for {spec.hub_id} in {hub_cache()}): "
            f"`lost-reg backbones --download {spec.name}` gets them, or give a file as `weights`"
        )
    return Weights("hub", spec.hub_id, path, file_sha256(path))


def weight_file(weights: str | Path) -> Path:
    """The path of a user's weight file. Raises LostRegError for no such file."""
    path = Path(weights)
    if not path.is_file():
        raise LostRegError(
            f"no weight file {str(path)!r}: `weights` is the path of a .pth, .safetensors or .onnx file"
        )
    return path


def cached_weights(spec: BackboneSpec) -> Path | None:
    """The published weights of a backbone in the Hugging Face cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.hub_id, HUB_FILE) if spec.hub_id else None
    return Path(found) if isinstance(found, str) else None


def hub_cache() -> str:
    """The folder of the Hugging Face cache (set by HF_HOME or HF_HUB_CACHE)."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _download_weights(spec: BackboneSpec) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(spec.hub_id, HUB_FILE))
    except Exception as error:  # the hub library's errors have no common base, across its HTTP clients
        raise LostRegError(
            f"could not download {spec.hub_id} from the Hugging Face hub: {first_sentence(error)}"
        ) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    try:
        return file_digest(path, "sha256")
    except OSError as error:
        raise LostRegError(f"cannot read the weight file {str(path)!r}: {error.strerror}") from None


def backbones_table() -> str:
    """One line per backbone."""
    aliases = {name: alias for alias, name in zoo.ALIASES.items()}
    rows = [
        {
            "backbone": spec.name,
            "alias": aliases.get(spec.name, ""),
            "family": spec.family,
            "patch": str(spec.patch_size),
            "registers": str(spec.registers),
            "weights": _presence(spec),
        }
        for spec in zoo.SPECS
    ]
    return "\n".join(
        [
            text_table(rows),
            f"{zoo.TIMM_PREFIX}NAME is any other VisionTransformer or Eva model of timm. Hub weights are in",
            f"{hub_cache()}: `lost-reg backbones --download NAME`",
            "downloads them, and `lost-reg run --weights FILE` uses a file instead.",
        ]
    )


def _presence(spec: BackboneSpec) -> str:
    if spec.bundled_file:
        return "here: part of this package"
    if spec.hub_id is None:
        return f"give {spec.official_file} as `weights`"
    return f"{'here' if cached_weights(spec) else 'not here'}: {spec.hub_id}"


def download_weights(name: str) -> str:
    """Download a backbone's weights; returns a line that says where they are."""
    from lost_reg.backbones.timm_models import resolve_spec

    spec = resolve_spec(name)
    found = find_weights(spec, download=True)
    return f"the weights of {spec.name} are at {found.path}"
