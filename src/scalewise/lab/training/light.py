"""Loads Lightning without the imports that a training does not use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

_PLOT = "torchmetrics.utilities.plot"


def defer_torchmetrics() -> None:
    """Let `import lightning` load two classes of torchmetrics, not its hundreds of metrics.

    Lightning needs only `Metric` and `MetricCollection`. The rest takes seconds: it imports
    scipy.signal, torchvision's detectors, transformers and matplotlib. The rest is loaded when
    another name of torchmetrics is used, and matplotlib when a metric is drawn, so code in the same
    process still finds all of torchmetrics. Nothing changes if torchmetrics is loaded already, is
    not installed, or does not let its parts be loaded alone.
    """
    spec = None if "torchmetrics" in sys.modules else importlib.util.find_spec("torchmetrics")
    if spec is None or spec.loader is None:
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def load(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module 'torchmetrics' has no attribute {name!r}")
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__["__version__"] = importlib.metadata.version("torchmetrics")
    package.__dict__["_logger"] = logging.getLogger("torchmetrics")
    sys.modules["torchmetrics"] = package
    sys.modules[_PLOT] = _plot_later()
    try:
        importlib.import_module("torchmetrics.utilities")  # before `metric`, which imports it too
        for name, home in (("Metric", "metric"), ("MetricCollection", "collections")):
            package.__dict__[name] = getattr(importlib.import_module(f"torchmetrics.{home}"), name)
    except (ImportError, AttributeError):
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchmetrics"]:
            del sys.modules[name]
        return
    finally:
        sys.modules.pop(_PLOT, None)
    package.__dict__["__getattr__"] = load


def _plot_later() -> ModuleType:
    """A stand-in for the module that draws; it loads the real one when something is drawn."""

    def plot_single_or_multi_val(*args: Any, **kwargs: Any) -> Any:
        return importlib.import_module(_PLOT).plot_single_or_multi_val(*args, **kwargs)

    stand_in = ModuleType(_PLOT)
    stand_in.__dict__.update(
        _AX_TYPE=Any, _PLOT_OUT_TYPE=Any, plot_single_or_multi_val=plot_single_or_multi_val
    )
    return stand_in
