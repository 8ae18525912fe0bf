"""Compact key/value caches: selection, fitting, storage and attention, on tensors alone (torch, no transformers)."""
