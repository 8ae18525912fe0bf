"""A LlamaIndex node → its text, and a copy of it that holds an excerpt; the node itself is never changed."""

from __future__ import annotations

from typing import Any

from llama_index.core.schema import BaseNode, ImageNode, MediaResource, Node, NodeWithScore, TextNode

from hyperscene_plugin.text.excerpts import Excerpt
from hyperscene_plugin.text.spans import METADATA_KEYS, span_metadata

__all__ = ["node_text", "with_excerpt", "with_text"]


def node_text(node: BaseNode) -> str | None:
    """Return the text that may be excerpted; ``None`` for images, other media, blank texts and unknown kinds."""
    text: str | None = None
    if isinstance(node, TextNode) and not isinstance(node, ImageNode):
        text = node.text
    elif isinstance(node, Node) and not (node.image_resource or node.audio_resource or node.video_resource):
        text = node.text_resource.text if node.text_resource else None
    return text if text and text.strip() else None


def with_text(node: BaseNode, text: str) -> BaseNode:
    """Return a copy of ``node`` that holds ``text`` and has its own metadata and relationships."""
    changes: dict[str, Any] = {
        "metadata": dict(node.metadata),
        "excluded_llm_metadata_keys": list(node.excluded_llm_metadata_keys),
        "excluded_embed_metadata_keys": list(node.excluded_embed_metadata_keys),
        "relationships": dict(node.relationships),
    }
    if isinstance(node, Node):
        resource = node.text_resource or MediaResource()
        changes["text_resource"] = resource.model_copy(update={"text": text})
    else:
        changes["text"] = text
    return node.model_copy(update=changes)


def with_excerpt(item: NodeWithScore, excerpt: Excerpt) -> NodeWithScore:
    """Return ``item`` with the excerpt for its text and, out of the model's sight, the spans it came from."""
    node = with_text(item.node, excerpt.text)
    node.metadata |= span_metadata(
        excerpt.spans, excerpt.tokens_before, excerpt.tokens_after, node_text(item.node) or "", item.node.metadata
    )
    for excluded in (node.excluded_llm_metadata_keys, node.excluded_embed_metadata_keys):
        excluded.extend(key for key in METADATA_KEYS if key not in excluded)
    return NodeWithScore(node=node, score=item.score)
