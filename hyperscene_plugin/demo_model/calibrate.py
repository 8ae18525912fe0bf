"""Make the demo model's head profile: ``python -m hyperscene_plugin.demo_model.calibrate [--out FILE]``.

Texts are of the model's small world, with the pairings that training may write; the questions are cues made from these
texts. No question of any evaluation is used.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.world import World


def sample_texts(count: int, seed: int = 99) -> list[str]:
    """Return texts of some 1,000 tokens: plain facts, facts among other sentences, chats."""
    world, rng = World(0), random.Random(seed)
    kinds = [{"style": "plain"}, {"style": "plain"}, {"style": "plain", "noise": 0.4}, {"style": "chat", "noise": 0.4}]
    people = (25, 25, 16, 12)
    return [
        world.make_context(rng, people[i % 4], 5, held_out=False, **kinds[i % 4]).text  # type: ignore[arg-type]
        for i in range(count)
    ]


def main() -> None:
    """Command line; see ``--help``."""
    from hyperscene_plugin.model import LocalModel, hide_library_bars
    from hyperscene_plugin.model.calibration import calibrate

    parser = argparse.ArgumentParser(prog="python -m hyperscene_plugin.demo_model.calibrate", description=__doc__)
    parser.add_argument("--out", type=Path, default=weights_path() / "head_profile.json")
    parser.add_argument("--texts", type=int, default=4, help="sample texts (default: %(default)s)")
    args = parser.parse_args()
    hide_library_bars()  # type: ignore[no-untyped-call,unused-ignore]
    started = time.perf_counter()
    hypercode = LocalModel.load("demo").hypercode

    def show(_: str, done: int, total: int) -> None:
        print(f"\r{done}/{total} heads, {time.perf_counter() - started:.0f} s", end="", file=sys.stderr)

    profile = calibrate(hypercode, sample_texts(args.texts), progress=show)
    profile.save(args.out)
    print(file=sys.stderr)
    print(json.dumps({"seconds": round(time.perf_counter() - started, 1), **profile.report}))


if __name__ == "__main__":
    main()
