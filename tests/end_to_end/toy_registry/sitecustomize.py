"""The line that a family adds to the registry, in every process that has this folder on its path.

In the package it stands in `FAMILIES` of `dpot_scale/config/model.py`.
"""

from dpot_scale.config.model import FAMILIES

FAMILIES["toy"] = "toy_family"
