"""The scene store at size: adding, opening, searching, forgetting; and vector search against comparing every vector.

``python -m hyperscene_plugin.bench.store [--scenes 100000]``. The scenes are drawn from the sentences of the bundled
book, some sentences far oftener than others (Zipf). Their vectors are those of ``--encoder`` (mean over a scene's
sentences, plus noise), or random projections of their lemmas where none is named. Times are wall clock, with the
process's own CPU time beside them; encoding is not part of any. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import regex

from hyperscene_plugin.store import SceneFilter, SceneStore, SearchMode
from hyperscene_plugin.store.database import Database
from hyperscene_plugin.text.lemmas import lemmatize
from hyperscene_plugin.types import Scene, Scope

_DIMENSION = 384
_NOISE = 0.15
_SCOPE = Scope(user_id="bench")
_BOOK = "the-time-machine.en.md"
_BAR_MS = 10.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--encoder", help="encoder name or folder, for example minilm; default: random projections")
    parser.add_argument("--location", help="path or URL of an empty place for the store; default: a temporary file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        location = options.location or str(Path(folder) / "scenes.db")
        report = run(location, options.scenes, options.queries, options.encoder, options.seed, Path(folder))
    print(json.dumps(report))


def run(
    location: str, num_scenes: int, num_queries: int, encoder: str | None, seed: int, folder: Path
) -> dict[str, object]:
    """Run all parts; return what the last line prints."""
    rng = np.random.default_rng(seed)
    sentences = _sentences()
    sentence_vectors = _encode(sentences, encoder)
    name = encoder or "random projection of lemmas"
    print(f"{len(sentences)} sentences of {_BOOK}; vectors: {name}, {sentence_vectors.shape[1]} dimensions")
    report: dict[str, object] = {"scenes": num_scenes, "encoder": name, "seed": seed}

    picks = [_zipf_picks(rng, len(sentences)) for _ in range(num_scenes)]
    vectors = _scene_vectors(rng, picks, sentence_vectors)
    with SceneStore.open(location) as store:
        started = time.perf_counter()
        for start in range(0, num_scenes, 2000):
            part = slice(start, start + 2000)
            store.add(list(_scenes(picks[part], sentences, start)), _SCOPE, vectors=vectors[part], encoder_name=name)
        took = time.perf_counter() - started
    report["add_per_second"] = round(num_scenes / took)
    print(f"add, batches of 2,000, synchronous=FULL: {num_scenes / took:,.0f} scenes/s ({took:.1f} s)")

    started = time.perf_counter()
    store = SceneStore.open(location)
    report["open_ms"] = round((time.perf_counter() - started) * 1000, 1)
    print(f"open: {report['open_ms']} ms")
    if Path(location).exists():
        size = Path(location).stat().st_size
        report["disk_mb"] = round(size / 1e6, 1)
        print(f"disk: {size / 1e6:.1f} MB, {size / num_scenes:.0f} bytes per scene")
    with store:
        queries = _queries(rng, sentences, sentence_vectors, num_queries)
        report["first_search_s"] = _first_searches(store, queries, name)
        report["index_mb"] = round(store.index_bytes / 1e6, 1)
        print(f"index in memory: {report['index_mb']} MB")
        report["search"] = _search_times(store, queries, name)
        report["vector_recall_at_10"] = _recall(store, queries, name)
        report["fts5"] = _fts5_baseline(folder, picks, sentences, queries[:40])
        report["one_add"] = _single_adds(store, sentences, sentence_vectors, name, queries)
        report["forget_s"] = _forget(store)
    report["synchronous"] = _synchronous_cost(folder, sentences)
    report["meets_10_ms"] = all(row["p95_ms"] < _BAR_MS for row in report["search"].values())  # type: ignore[attr-defined]
    return report


def _sentences() -> list[str]:
    book = files("hyperscene_plugin.demo").joinpath("samples", _BOOK).read_text(encoding="utf-8")
    parts = regex.split(r"(?<=[.!?]['\"’”]?)\s+", regex.sub(r"\s+", " ", book))
    return [part for part in parts if 20 < len(part) < 600]


def _encode(sentences: list[str], encoder: str | None) -> np.ndarray:
    if encoder is not None:
        from hyperscene_plugin.encoder import load_encoder

        return load_encoder(encoder).encode(sentences)
    columns: dict[str, np.ndarray] = {}
    rows = np.zeros((len(sentences), _DIMENSION))
    for row, sentence in zip(rows, sentences, strict=True):
        for term in lemmatize(sentence):
            if term not in columns:
                columns[term] = np.random.default_rng(zlib.crc32(term.encode())).standard_normal(_DIMENSION)
            row += columns[term]
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _zipf_picks(rng: np.random.Generator, num_sentences: int) -> list[int]:
    """One to three sentences: half of the draws are Zipf-distributed, the others even."""
    count = int(rng.integers(1, 4))
    return [
        int((rng.zipf(1.3) - 1) % num_sentences) if rng.random() < 0.5 else int(rng.integers(num_sentences))
        for _ in range(count)
    ]


def _scene_vectors(rng: np.random.Generator, picks: list[list[int]], sentence_vectors: np.ndarray) -> np.ndarray:
    rows = np.stack([sentence_vectors[pick].mean(axis=0) for pick in picks]).astype(np.float32)
    noisy: np.ndarray = rows + _noise(rng, rows.shape) * np.linalg.norm(rows, axis=1, keepdims=True)
    return noisy


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape, dtype=np.float32) * (_NOISE / np.sqrt(shape[-1])), dtype=np.float32)


def _scenes(picks: list[list[int]], sentences: list[str], offset: int) -> Iterator[Scene]:
    for number, pick in enumerate(picks, start=offset):
        text = " ".join(sentences[i] for i in pick)
        source, index = divmod(number, 1000)
        day = f"{2020 + source % 5}-{1 + index % 12:02d}-{1 + index % 28:02d}"
        yield Scene(text, f"book-{source}", 0, len(text), index, created_at=day, metadata={"shelf": source % 10})


_Query = tuple[str, np.ndarray]


def _queries(rng: np.random.Generator, sentences: list[str], vectors: np.ndarray, number: int) -> list[_Query]:
    """Runs of 4 to 12 words of the book, function words included, with the noisy vector of their sentence."""
    found: list[_Query] = []
    for place in rng.integers(len(sentences), size=number):
        words = sentences[place].split()
        start = int(rng.integers(max(1, len(words) - 8)))
        text = " ".join(words[start : start + int(rng.integers(4, 13))])
        found.append((text, vectors[place] + _noise(rng, vectors[place].shape)))
    return found


def _first_searches(store: SceneStore, queries: list[_Query], name: str) -> dict[str, float]:
    """The first search of a scope loads its index."""
    found: dict[str, float] = {}
    modes: tuple[SearchMode, ...] = ("text", "vector")
    for mode in modes:
        started, started_cpu = time.perf_counter(), time.process_time()
        store.search(queries[0][0], _SCOPE, vector=queries[0][1], encoder_name=name, mode=mode)
        found[mode] = round(time.perf_counter() - started, 2)
        found[f"{mode}_cpu"] = round(time.process_time() - started_cpu, 2)
        print(f"first {mode} search (loads the index): {found[mode]} s, {found[f'{mode}_cpu']} s of CPU")
    return found


def _search_times(store: SceneStore, queries: list[_Query], name: str) -> dict[str, dict[str, float]]:
    since = SceneFilter(since="2022-06-01")
    cases: dict[str, Callable[[str, np.ndarray], object]] = {
        "text": lambda q, v: store.search(q, _SCOPE, mode="text"),
        "vector": lambda q, v: store.search(None, _SCOPE, vector=v, encoder_name=name, mode="vector"),
        "hybrid": lambda q, v: store.search(q, _SCOPE, vector=v, encoder_name=name),
        "hybrid, by time": lambda q, v: store.search(q, _SCOPE, vector=v, encoder_name=name, where=since),
    }
    table: dict[str, dict[str, float]] = {}
    print(f"{'search':18} {'p50 ms':>8} {'p95 ms':>8} {'CPU p50':>8} {'CPU p95':>8}")
    for label, case in cases.items():
        for query, vector in queries[:10]:
            case(query, vector)
        table[label] = _timed(case, queries)
        row = table[label]
        print(f"{label:18} {row['p50_ms']:8} {row['p95_ms']:8} {row['cpu_p50_ms']:8} {row['cpu_p95_ms']:8}")
    return table


def _timed(case: Callable[[str, np.ndarray], object], queries: list[_Query]) -> dict[str, float]:
    wall, cpu = [], []
    for query, vector in queries:
        started, started_cpu = time.perf_counter(), time.process_time()
        case(query, vector)
        wall.append((time.perf_counter() - started) * 1000)
        cpu.append((time.process_time() - started_cpu) * 1000)
    return {
        f"{kind}p{q}_ms": round(float(np.percentile(values, q)), 2)
        for kind, values in (("", wall), ("cpu_", cpu))
        for q in (50, 95)
    }


def _recall(store: SceneStore, queries: list[_Query], name: str) -> float:
    """Share of the ten true nearest that are found; equal cosines count as found."""
    shares = []
    for _, vector in queries:
        true = store.search(None, _SCOPE, vector=vector, encoder_name=name, mode="vector", exact=True).hits
        found = store.search(None, _SCOPE, vector=vector, encoder_name=name, mode="vector").hits
        shares.append(sum(hit.score >= true[-1].score for hit in found) / len(true))
    print(f"vector search, recall at 10 against comparing every vector: {statistics.fmean(shares):.4f}")
    return round(statistics.fmean(shares), 4)


def _fts5_baseline(
    folder: Path, picks: list[list[int]], sentences: list[str], queries: list[_Query]
) -> dict[str, dict[str, float]]:
    """SQLite's own FTS5 on the same lemmas, what the index in memory replaces.

    Once the query's lemmas joined by OR, once the rarest of them only (up to 4,000 rows in all, by fts5vocab).
    """
    lemmas = [" ".join(lemmatize(sentence)) for sentence in sentences]
    connection = sqlite3.connect(folder / "fts5.db")
    connection.execute("CREATE VIRTUAL TABLE texts USING fts5(lemmas)")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5vocab(texts, 'row')")
    rows = ((number, " ".join(lemmas[i] for i in pick)) for number, pick in enumerate(picks))
    connection.executemany("INSERT INTO texts (rowid, lemmas) VALUES (?, ?)", rows)
    connection.commit()

    def match(terms: Sequence[str]) -> list[tuple[int, float]]:
        query = " OR ".join(f'"{term}"' for term in terms)
        rows = connection.execute("SELECT rowid, rank FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT 10", (query,))
        return rows.fetchall()

    def every(query: str, _: np.ndarray) -> list[tuple[int, float]]:
        return match(list(dict.fromkeys(lemmatize(query))))

    def rarest(query: str, _: np.ndarray) -> list[tuple[int, float]]:
        found = "SELECT coalesce(max(doc), 0) FROM words WHERE term = ?"
        counts = {term: int(connection.execute(found, (term,)).fetchone()[0]) for term in lemmatize(query)}
        ordered = sorted(counts, key=counts.__getitem__)
        total = np.cumsum([counts[term] for term in ordered])
        return match([term for term, upto in zip(ordered, total, strict=True) if upto <= 4000] or ordered[:1])

    table = {"FTS5, every lemma": _timed(every, queries), "FTS5, rarest": _timed(rarest, queries)}
    shares = []
    for query, vector in queries:
        true = {number for number, _ in every(query, vector)}
        shares.append(len(true & {number for number, _ in rarest(query, vector)}) / max(1, len(true)))
    table["FTS5, rarest"]["recall_at_10"] = round(statistics.fmean(shares), 3)
    connection.close()
    for label, row in table.items():
        print(f"{label:18} {row['p50_ms']:8} {row['p95_ms']:8} {row['cpu_p50_ms']:8} {row['cpu_p95_ms']:8}")
    print(f"FTS5, rarest: recall at 10 against FTS5 with every lemma: {table['FTS5, rarest']['recall_at_10']}")
    return table


def _single_adds(
    store: SceneStore, sentences: list[str], vectors: np.ndarray, name: str, queries: list[_Query]
) -> dict[str, float]:
    """A chat's rhythm: one scene is added, then one hybrid search sees it."""
    adds: list[float] = []
    searches: list[float] = []
    for number, (query, vector) in enumerate(queries[:50]):
        scene = Scene(sentences[number], "chat", number, number + 1, number)
        started = time.perf_counter()
        store.add([scene], _SCOPE, vectors=vectors[number][None], encoder_name=name)
        between = time.perf_counter()
        store.search(query, _SCOPE, vector=vector, encoder_name=name)
        searches.append((time.perf_counter() - between) * 1000)
        adds.append((between - started) * 1000)
    found = {"add_p50_ms": round(statistics.median(adds), 2), "search_p50_ms": round(statistics.median(searches), 2)}
    print(f"one add, then one search: add p50 {found['add_p50_ms']} ms, search p50 {found['search_p50_ms']} ms")
    return found


def _forget(store: SceneStore) -> dict[str, float]:
    found: dict[str, float] = {}
    for vacuum, source in ((False, "book-1"), (True, "book-2")):
        started = time.perf_counter()
        removed = store.forget(_SCOPE, source_id=source, vacuum=vacuum).removed
        found["with_vacuum" if vacuum else "without_vacuum"] = round(time.perf_counter() - started, 2)
        print(f"forget {removed} scenes, vacuum={vacuum}: {time.perf_counter() - started:.2f} s")
    return found


def _synchronous_cost(folder: Path, sentences: list[str]) -> dict[str, float]:
    """Acknowledged scenes a second, one transaction each, with and without waiting for the disk."""
    found: dict[str, float] = {}
    for setting in ("FULL", "NORMAL"):
        database = Database.open(folder / f"{setting}.db", synchronous=setting)
        with SceneStore(database) as store:
            started = time.perf_counter()
            for number, sentence in enumerate(sentences[:300]):
                store.add([Scene(sentence, "s", number, number + 1, number)], _SCOPE)
            found[setting] = round(300 / (time.perf_counter() - started), 1)
    print(f"one scene a transaction: {found['FULL']}/s with synchronous=FULL (used), {found['NORMAL']}/s with NORMAL")
    return found


if __name__ == "__main__":
    main()
