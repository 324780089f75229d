"""Discovery on Ray: `lost-reg run --engine ray`, and a class for pipelines of Ray Data."""

from lost_reg.ray.discover import Discover as Discover
from lost_reg.ray.engine import RayEngine as RayEngine
