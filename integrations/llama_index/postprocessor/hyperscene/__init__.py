"""Retrieved LlamaIndex nodes in, the same nodes cut to the scenes that matter out, under one hard token budget."""

from llama_index.postprocessor.hyperscene.base import HyperscenePostprocessor
from llama_index.postprocessor.hyperscene.events import HypersceneEndEvent, HypersceneStartEvent

__all__ = ["HypersceneEndEvent", "HyperscenePostprocessor", "HypersceneStartEvent"]
