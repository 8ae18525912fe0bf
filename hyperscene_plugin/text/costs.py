"""A ``SceneIndex`` and a tokenizer → what every scene, header and the whole cost in tokens; counted once per index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hyperscene_plugin.text.render import body, day, header, render

if TYPE_CHECKING:
    from hyperscene_plugin.text.index import SceneIndex
    from hyperscene_plugin.types import TokenCounter

__all__ = ["Costs", "token_costs"]


@dataclass(frozen=True, eq=False)
class Costs:
    """What scenes cost, in tokens of one tokenizer.

    Attributes:
        bodies: ``(scenes,)``, each scene's own line: speaker, text, line break.
        runs: ``(scenes,)``, the run (day, document) a scene belongs to; a run's header is paid at most once.
        headers: ``(scenes,)``, the header a scene needs when it is the first kept of its run.
        whole: tokens of everything rendered.
    """

    bodies: np.ndarray
    runs: np.ndarray
    headers: np.ndarray
    whole: int = 0


def token_costs(index: SceneIndex, counter: TokenCounter) -> Costs:
    """Count (once per index and tokenizer name) what the scenes of ``index`` cost."""
    known = index.remembered.get(("costs", counter.name))
    if isinstance(known, Costs):
        return known
    scenes = index.scenes
    runs: dict[tuple[str, str | None], int] = {}
    of_run = [runs.setdefault((scene.source_id, day(scene.created_at)), len(runs)) for scene in scenes]
    lines = [header(scene) for scene in scenes]
    distinct = list(dict.fromkeys(lines))
    sizes = dict(zip(distinct, counter.count_many([f"{line}\n" if line else "" for line in distinct]), strict=True))
    bodies = counter.count_many([body(scene) + "\n" for scene in scenes])
    costs = Costs(
        np.asarray(bodies, dtype=np.int64),
        np.asarray(of_run, dtype=np.int64),
        np.asarray([sizes[line] for line in lines], dtype=np.int64),
        counter.count(render(scenes)),
    )
    index.remembered["costs", counter.name] = costs
    return costs
