"""Why LOST's boxes are the whole image, or a single patch: what is said of images that a run recorded."""

from __future__ import annotations

from helpers import found_object, prediction

from lost_reg.discovery.degenerate import why_implausible
from lost_reg.plausibility import BORDER_STRIP, SINGLE_PATCH, WHOLE_IMAGE

WHOLE = (0, 0, 128, 96)  # of 48 patches


def whole(degree: int, **details):
    return prediction("a.jpg", found_object(WHOLE, degree=degree, **details))


def why(*images) -> str | None:
    return why_implausible(WHOLE_IMAGE, images)


def test_if_all_affinities_are_positive_all_patches_tie():
    tied = whole(47, positive_share=1.0)
    text = "100 % of the affinities in this image are positive, so all patches tie for the lowest degree and"
    assert why(tied).startswith(text)
    assert why(tied, tied).startswith(text.replace("this image", "these images"))


def test_the_share_is_a_mean_and_never_rounded_up_to_all():
    nearly = whole(46, positive_share=0.9999)
    assert why(nearly).startswith("99.9 % of the affinities in this image are positive")
    text = why(whole(47, positive_share=1.0), whole(46, positive_share=0.9))
    assert text.startswith("95 % of the affinities in these images are positive, so in 1 of them all patches")


def test_nothing_is_said_where_positive_affinities_are_not_the_reason_or_not_recorded():
    assert why(whole(20, positive_share=0.89)) is None
    assert why(whole(47)) is None and why() is None


def test_a_seed_without_any_similar_patch_stays_alone():
    alone, not_alone = (prediction("a.jpg", found_object((0, 0, 16, 16), degree=one)) for one in (0, 3))
    why = "the seed is similar to no other patch, so nothing can join it"
    assert why_implausible(SINGLE_PATCH, iter([alone])) == why
    assert why_implausible(SINGLE_PATCH, iter([alone, not_alone])) == f"in 1 of these images {why}"
    assert why_implausible(SINGLE_PATCH, iter([alone, not_alone, not_alone])) is None
    assert why_implausible(SINGLE_PATCH, iter([])) is None
    assert why_implausible(BORDER_STRIP, iter([alone])) is None
