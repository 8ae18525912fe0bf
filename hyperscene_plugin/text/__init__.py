"""Text in, scenes, analysis and selections out. Pure Python and NumPy; no torch, no store, no model."""
