"""What a context costs before it is run: weights, cache, peak memory and work, in full and as hypercode.

Pure arithmetic on a ``config.json``; no torch, no model is loaded. ``plan.py`` is the entry.
"""

from __future__ import annotations

from hyperscene_plugin.forecast.figures import Figure
from hyperscene_plugin.forecast.fits import Fit
from hyperscene_plugin.forecast.plan import Forecast, forecast
from hyperscene_plugin.forecast.references import reference_names
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import ModelShape, shape_of

__all__ = ["Figure", "Fit", "Forecast", "ModelShape", "Request", "forecast", "reference_names", "shape_of"]
