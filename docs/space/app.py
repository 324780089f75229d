"""A Hugging Face Space of the page of `lost-reg explore`; see README.md beside it."""

import os

from lost_reg import load_backbone
from lost_reg.explore.page import look, page

NAMES = os.environ.get("LOST_REG_SPACE_BACKBONES", "dino_vits16,dinov2_vits14_reg").split(",")

demo = page([load_backbone(name) for name in NAMES])

if __name__ == "__main__":
    demo.launch(**look())
