"""What the maps of a gallery are called, and what each shows."""

from __future__ import annotations

from collections.abc import Collection

# title and explanation by the name of a map
MAPS = {
    "norms": (
        "Token norm",
        "The length of each patch's token as it enters the block that the features come from. A few that "
        "stand far out are artifacts.",
    ),
    "attention of class": (
        "Attention of the class token",
        "How much it attends to each patch in the last block, the mean over heads. Below the maps are those "
        "of each head, and of registers. Artifacts get much of it.",
    ),
    "degrees": (
        "Degree",
        "How many other patches a patch is similar to (LOST), or how many at the image's rim, summed over "
        "three thresholds (LOST-rim). The lowest are seeds.",
    ),
    "affinities": ("Affinity to the seed", "The positive part; patches with none are darkest."),
    "eigenvector": (
        "Eigenvector",
        "Of the normalised cut. Its mean divides the patches into two sides; the seed has the largest value, "
        "whatever its sign, and its side is the object's.",
    ),
    "cosines": ("Cosine to the seed", "How similar each patch is to the seed; negative ones count as 0."),
    "attention": (
        "Attention",
        "How much the class token attends to each patch, in the head that DINO-seg uses, or the mean of all.",
    ),
    "background": (
        "Cosine to the background patch",
        "How similar each patch is to the one that the class token attends to least. What is above the "
        "threshold is background.",
    ),
    "votes": ("Votes", "The share of the seeds whose mask holds the patch."),
    "prior": (
        "Prior",
        "The class token's attention, nearness to the centre and unlikeness to the rim, each standardised, "
        "and summed.",
    ),
    "objectness": ("Objectness", "What the head says: above 0, a patch is object."),
    "spread": ("Spread prior", "The mean prior of all patches that are similar to a patch."),
}
MASK = (
    "Mask",
    "Patches that may belong to the object. The connected part around the seed is clear and gives the box, "
    "other parts are dimmed, the rest is dark.",
)


def titles(names: Collection[str]) -> dict[str, str]:
    """The titles of those of these maps that are known, by name, in the order of the table."""
    return {name: title for name, (title, _) in MAPS.items() if name in names}


def explanations(names: Collection[str]) -> list[tuple[str, str]]:
    """Title and explanation of those of these maps that are known, and of the mask."""
    return [*(words for name, words in MAPS.items() if name in names), MASK]
