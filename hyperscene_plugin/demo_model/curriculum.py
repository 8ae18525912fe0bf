"""What the demo model is trained on, stage by stage: from few people to many, then more skills, then length."""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.demo_model.data import Mix


@dataclass(frozen=True)
class Stage:
    """A mix of sequences, and the held-out exact accuracy (on this very mix) that ends the stage."""

    mix: Mix
    pass_mark: float


STAGES: tuple[Stage, ...] = (
    Stage(Mix(max_tokens=320, max_facts=12, absent=0.03, reverse=0.1, repeat=0.15, quote=0.15), 0.9),
    Stage(
        Mix(
            people=(2, 4, 8, 12, 16),
            facts=(1, 2, 3, 4, 5),
            max_facts=32,
            turns=24,
            absent=0.1,
            reverse=0.1,
            chat=0.25,
            noise=0.4,
            value_first=0.7,
            digits=0.3,
            gap=0.5,
            repeat=0.08,
            quote=0.15,
            max_tokens=640,
        ),
        0.94,
    ),
    Stage(
        Mix(
            people=(2, 4, 8, 12, 16, 20),
            facts=(1, 2, 3, 4, 5),
            max_facts=80,
            turns=32,
            absent=0.12,
            reverse=0.1,
            chat=0.25,
            noise=0.4,
            value_first=0.7,
            digits=0.3,
            gap=0.6,
            repeat=0.0,
            quote=0.05,
            max_tokens=1100,
        ),
        0.97,
    ),
    Stage(
        Mix(
            people=(8, 16, 24, 32, 36),
            facts=(2, 3, 5),
            max_facts=180,
            turns=40,
            absent=0.15,
            reverse=0.1,
            chat=0.25,
            noise=0.4,
            value_first=0.7,
            digits=0.3,
            gap=0.5,
            repeat=0.0,
            quote=0.05,
            max_tokens=2400,
        ),
        2.0,
    ),
)
