"""A cluster of Ray, and images for it: one kills its decoder, one is none, one has an odd name."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray_cases import REPOSITORY

# A file of this name ends the process that decodes it, as a fault of an image library would; one that is
# "held" is not read before a file "open" is beside its folder.
POISON = """
    import sys
    if any("decoder import serve" in argument for argument in sys.orig_argv):
        import os, signal
        from lost_reg.images import decoding
        read = decoding.read_noted

        def read_noted(image, **options):
            import time
            while "held" in str(image) and not os.path.exists(os.path.dirname(image) + "/../open"):
                time.sleep(0.05)
            if "poison" in str(image):
                os.kill(os.getpid(), signal.SIGSEGV)
            return read(image, **options)

        decoding.read_noted = read_noted
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of two CPUs each, to which this process is connected."""
    from lost_reg.ray.cluster import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster

    here, hook = os.getcwd(), tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(textwrap.dedent(POISON))
    node = {"num_cpus": 2, "object_store_memory": 10**9}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(hook), REPOSITORY, *sys.path]))
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.chdir(hook)  # as the nodes of a cluster, it starts elsewhere
        nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            nodes.add_node(**node)
            patched.chdir(here)
            ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Eighty images of three sizes, one that kills its decoder, one that is none, and an odd name."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(80):
        size_hw = [(64, 96), (96, 64), (80, 80)][number % 3]
        pixels = random.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "00.png").rename(folder / "caf\udce9.png")
    (folder / "bad.jpg").write_text("no image")
    (folder / "poison.png").write_bytes((folder / "01.png").read_bytes())
    return folder
