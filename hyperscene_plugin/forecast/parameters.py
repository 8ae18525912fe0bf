"""A ``ModelShape`` → its parameters, counted part by part, and the bytes its weights take, also quantised."""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.forecast.figures import Figure
from hyperscene_plugin.forecast.shape import DTYPE_BYTES, ModelShape
from hyperscene_plugin.forecast.source import StoredWeights

__all__ = ["QUANTIZATIONS", "Parameters", "Weights", "count_parameters", "weights_of"]

QUANTIZATIONS = ("8bit", "4bit")
_BLOCK = 64  # weights that share one float32 scale in bitsandbytes' 4-bit format


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of elements. ``matrices`` are the layers' linear weights, ``rows`` their output rows; ``head`` is zero
    when the output reuses the embedding table."""

    embedding: int
    head: int
    matrices: int
    rows: int
    biases: int
    norms: int
    figures: tuple[Figure, ...]

    @property
    def total(self) -> int:
        """All parameters, a tied table once."""
        return self.embedding + self.head + self.matrices + self.biases + self.norms


@dataclass(frozen=True, slots=True)
class Weights:
    """What the weights take in memory. ``read_per_token`` is what one decoded token reads of them, in bytes."""

    parameters: Parameters
    bytes: int
    read_per_token: int
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


def count_parameters(shape: ModelShape) -> Parameters:
    """Count a dense decoder: embedding, attention with grouped queries, gated MLP, norms. Equals the real model's."""
    layers, hidden, inner = shape.num_layers, shape.hidden_size, shape.intermediate_size
    query, kv, head = shape.query_width, shape.kv_width, shape.head_dim
    embedding = shape.vocab_size * hidden
    attention = layers * (2 * hidden * query + 2 * hidden * kv)
    mlp = layers * 3 * hidden * inner
    per_layer_bias = (
        (query + 2 * kv) * shape.qkv_bias + hidden * shape.output_bias + (2 * inner + hidden) * shape.mlp_bias
    )
    per_layer_norm = shape.norms_per_layer * hidden + 2 * head * shape.qk_norm
    norms = layers * per_layer_norm + hidden
    copies = "1 table, input and output (tied)" if shape.tied_embeddings else "2 tables, input and output"
    figures = [
        Figure(
            "embeddings",
            "embeddings",
            f"{shape.vocab_size:,} · {hidden:,} · {copies}",
            embedding * (1 if shape.tied_embeddings else 2),
            "count",
        ),
        Figure(
            "attention",
            "attention",
            f"{layers} layers · (2 · {hidden:,} · {query:,} for queries and output "
            f"+ 2 · {hidden:,} · {kv:,} for keys and values)",
            attention,
            "count",
        ),
        Figure("mlp", "MLP", f"{layers} layers · 3 · {hidden:,} · {inner:,}", mlp, "count"),
        Figure(
            "norms",
            "norms",
            f"{layers} layers · ({shape.norms_per_layer} · {hidden:,}{f' + 2 · {head}' if shape.qk_norm else ''})"
            f" + {hidden:,}",
            norms,
            "count",
        ),
    ]
    if per_layer_bias:
        figures.append(
            Figure("biases", "biases", f"{layers} layers · {per_layer_bias:,}", layers * per_layer_bias, "count")
        )
    total = sum(int(part.value) for part in figures)
    addends = " + ".join(f"{int(part.value):,}" for part in figures)
    return Parameters(
        embedding=embedding,
        head=0 if shape.tied_embeddings else embedding,
        matrices=attention + mlp,
        rows=layers * (query + 2 * kv + hidden + 2 * inner + hidden),
        biases=layers * per_layer_bias,
        norms=norms,
        figures=(*figures, Figure("parameters", "parameters", addends, total, "count")),
    )


def weights_of(
    shape: ModelShape, dtype: str, quantization: str | None = None, stored: StoredWeights | None = None
) -> Weights:
    """Return the bytes of the weights in ``dtype``, or with the layers' matrices quantised.

    Files beside the configuration are believed over the formula when they are in ``dtype`` (or quantised themselves)
    and no quantisation is asked for. 4 bit and 8 bit are bitsandbytes' formats, embeddings and output left as they are.

    Raises:
        InputError: the configuration says that the weights are stored quantised, no file tells their size, and no
            quantisation was named.
    """
    counted, size = count_parameters(shape), DTYPE_BYTES[dtype]
    notes: list[str] = []
    if quantization is not None:
        figure = _quantized(counted, size, quantization)
        notes.append(
            f"{quantization} weights: only the layers' matrices are quantised (bitsandbytes); "
            f"embeddings, output, norms and biases stay {dtype}; scratch of its kernels is not counted"
        )
    elif stored is not None and (shape.stored_quantization or set(stored.dtypes) == {dtype}):
        figure = Figure(
            "bytes",
            "bytes",
            f"the tensors of {stored.files} safetensors file{'s' if stored.files > 1 else ''} beside the configuration",
            stored.bytes,
            "bytes",
        )
        if shape.stored_quantization:
            notes.append(f"the weights are stored quantised ({shape.stored_quantization})")
        elif stored.elements != counted.total:
            notes.append(
                f"the files hold {stored.elements:,} parameters, the formula counts {counted.total:,}: "
                "the difference is not part of the language model, or a tied table stored twice"
            )
    elif shape.stored_quantization:
        raise InputError(
            f"{shape.name}: the configuration says the weights are quantised ({shape.stored_quantization}), and no "
            "weight file tells their size; name it with --quantization 4bit or 8bit"
        )
    else:
        figure = Figure("bytes", "bytes", f"{counted.total:,} · {size} bytes ({dtype})", counted.total * size, "bytes")
        if stored is not None:
            notes.append(f"the files hold {', '.join(sorted(stored.dtypes))}; counted as converted to {dtype}")
    total = int(figure.value)
    # An untied input table is read one row a token; a tied one is read whole, as the output matrix.
    read = total - (0 if shape.tied_embeddings else (counted.embedding - shape.hidden_size) * size)
    return Weights(counted, total, read, (*counted.figures, figure), tuple(notes))


def _quantized(counted: Parameters, size: int, quantization: str) -> Figure:
    rest = (counted.total - counted.matrices) * size
    kept = f"+ {counted.total - counted.matrices:,} · {size} bytes unquantised"
    if quantization == "4bit":
        total = counted.matrices // 2 + counted.matrices // _BLOCK * 4 + rest
        formula = f"{counted.matrices:,} · (½ byte + 4 bytes of scale ÷ {_BLOCK}) {kept}"
    elif quantization == "8bit":
        total = counted.matrices + counted.rows * 4 + rest
        formula = f"{counted.matrices:,} · 1 byte + {counted.rows:,} rows · 4 bytes of scale {kept}"
    else:
        raise InputError(f"quantization must be one of {', '.join(QUANTIZATIONS)}; got {quantization!r}")
    return Figure("bytes", "bytes", formula, total, "bytes")
