"""Names of the schemes that need no arguments, by the groups that they can weigh."""

from __future__ import annotations

from scalewise.weighting import scheme_names

ONLY_POSITIVES = ("effective", "loss", "share")
OF_POSITIVES = [name for name in scheme_names() if name != "static"]
OF_LEVELS = [name for name in OF_POSITIVES if name not in ONLY_POSITIVES]
