"""hyperscene-plugin for LangChain: retrieved documents in, the scenes that matter out, under one hard token budget."""

from langchain_hyperscene.compressor import COMPRESSION_EVENT, HypersceneCompressor

__all__ = ["COMPRESSION_EVENT", "HypersceneCompressor"]
