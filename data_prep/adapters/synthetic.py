"""A world whose best possible ranking is known, for the quickstart and for tests. numpy only, seeded.

Items of a domain belong to tastes, the same tastes in every domain, and a title says so: "<taste> <style> <noun>". The
taste word is shared by all domains (so what is learnt in one carries to an unseen one), the style word sets how popular
an item is (the same everywhere), the noun names the domain. A user has a few favourite tastes, the same in every
domain. The next item of user u in a domain, after item j and with the items S of that domain already seen, is drawn
from

    p(i | u, j, S)  ~  ( stay * 1[taste(i) = taste(j)] + (1 - stay) * favour(u, taste(i)) ) * share(i)   for i not in S,
      0 for i in S

where share(i) is the item's popularity within its taste (sums to 1 there); at the first item of a domain the bracket is
favour(u, taste(i)). So a reader of the history's taste words knows nearly all there is to know, popularity alone knows
little, and the oracle is exact.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cprec_jax.config.corpus import CorpusSpec, SyntheticSpec
from cprec_jax.config.source import Order, SourceSpec
from cprec_jax.corpus import user_key
from cprec_jax.errors import UserError
from data_prep.engine import Engine
from data_prep.rejects import Rejects

_TASTE_WORDS = """
coastal gothic rustic nordic retro cosmic tropical urban vintage royal arctic desert alpine floral industrial
minimal baroque pastel tribal lunar pirate samurai steampunk bohemian zen galactic medieval jungle prairie aztec
noir neon viking celtic victorian atomic oceanic volcanic mystic sporty
"""
_STYLE_WORDS = """
velvet amber silver cotton ivory copper crimson maple linen golden bamboo marble indigo leather emerald walnut
cobalt scarlet cedar pearl slate coral bronze olive wool ruby birch teal granite satin azure brass hazel lilac onyx
quartz rosewood saffron topaz umber
"""
TASTES, STYLES = _TASTE_WORDS.split(), _STYLE_WORDS.split()
# a domain of another name uses its name
NOUNS = {
    "beauty": "serum",
    "toys": "puzzle",
    "clothing": "jacket",
    "games": "adventure",
    "food": "biscuit",
    "kitchen": "kettle",
    "movies": "film",
    "garden": "lantern",
    "music": "album",
    "books": "novel",
    "sports": "racket",
    "pets": "leash",
}
EVEN_FAVOUR = 0.02  # what a user gives to all tastes alike, so that no item is impossible
LONGEST = 4.0  # no user has more than this many times the mean number of interactions


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything drawn once. U users, K tastes, M domains, N items per domain (item n has taste n % K)."""

    favour_UK: np.ndarray
    share_MN: np.ndarray
    titles: list[list[str]]
    user: np.ndarray  # one entry an interaction, from here on
    domain: np.ndarray
    item: np.ndarray
    time: np.ndarray


def next_item_distribution(
    spec: SyntheticSpec, favour_BK: np.ndarray, share_N: np.ndarray, previous_B: np.ndarray, seen_BN: np.ndarray
) -> np.ndarray:
    """The formula of the module's head, [B, N] float64; `previous_B` is -1 where the domain has no history yet."""
    n_items = share_N.shape[0]
    taste_N = np.arange(n_items) % spec.tastes
    first_B = previous_B < 0
    stay_B1 = np.where(first_B, 0.0, spec.stay)[:, None]
    same_BN = taste_N[None, :] == np.where(first_B, 0, previous_B % spec.tastes)[:, None]
    weight_BN = (stay_B1 * same_BN + (1.0 - stay_B1) * favour_BK[:, taste_N]) * share_N[None, :]
    weight_BN[seen_BN] = 0.0
    total_B1 = weight_BN.sum(axis=1, keepdims=True)
    # A user who has seen everything he could want sees no next item; such a row is all zero and is never drawn from.
    return np.divide(weight_BN, total_B1, out=np.zeros_like(weight_BN), where=total_B1 > 0)


def make_world(spec: SyntheticSpec, domains: Sequence[str], seed: int) -> World:
    """Draw the world. Times rise strictly for every user, so that the order of events is never in doubt."""
    rng = np.random.default_rng([seed, 20250411])
    favour_UK = _favours(spec, rng)
    titles, shares = zip(*(_catalogue(spec, name, rng) for name in domains), strict=True)
    share_MN = np.stack(shares)
    n_events_U = np.clip(rng.poisson(spec.interactions, spec.users), 2, int(LONGEST * spec.interactions))
    user, time = _clock(spec, n_events_U, rng)
    taste_for_domains_UM = rng.dirichlet(np.full(len(domains), 3.0), spec.users)
    domain = (
        (rng.random(len(user))[:, None] > np.cumsum(taste_for_domains_UM, axis=1)[user, :-1])
        .sum(axis=1)
        .astype(np.int16)
    )
    item = _draw_items(spec, favour_UK, share_MN, user, domain, n_events_U, rng)
    kept = item >= 0
    return World(
        favour_UK=favour_UK,
        share_MN=share_MN,
        titles=list(titles),
        user=user[kept],
        domain=domain[kept],
        item=item[kept],
        time=time[kept],
    )


def _favours(spec: SyntheticSpec, rng: np.random.Generator) -> np.ndarray:
    """Each user's weights over tastes [U, K]: a few favourites, and a little for everything."""
    favour_UK = np.full((spec.users, spec.tastes), EVEN_FAVOUR / spec.tastes)
    favourites = np.argsort(rng.random((spec.users, spec.tastes)), axis=1)[:, : spec.favourites]
    weights = rng.dirichlet(np.full(spec.favourites, 2.0), spec.users)
    np.add.at(favour_UK, (np.arange(spec.users)[:, None], favourites), weights * (1 - EVEN_FAVOUR))
    return favour_UK


def _catalogue(spec: SyntheticSpec, name: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Titles and popularity shares of one domain; every taste gets its own choice of styles, so titles are unique."""
    noun = NOUNS.get(name.lower(), name.lower())
    styles_KS = np.argsort(rng.random((spec.tastes, len(STYLES))), axis=1)
    n_N = np.arange(spec.items)
    style_N = styles_KS[n_N % spec.tastes, n_N // spec.tastes]
    titles = [
        f"{TASTES[taste]} {STYLES[style]} {noun}" for taste, style in zip(n_N % spec.tastes, style_N, strict=True)
    ]
    popularity_N = (1.0 + style_N) ** -spec.popularity
    share_N = popularity_N / np.bincount(n_N % spec.tastes, popularity_N, spec.tastes)[n_N % spec.tastes]
    return titles, share_N


def _clock(spec: SyntheticSpec, n_events_U: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(user, time) of every event, sorted by both; times are uniform over the span and pushed apart to differ within a
    user."""
    user = np.repeat(np.arange(spec.users), n_events_U)
    time = rng.integers(spec.start, spec.start + spec.days * 86_400, len(user))
    time = time[np.lexsort((time, user))]
    event = np.arange(len(user)) - np.repeat(np.cumsum(n_events_U) - n_events_U, n_events_U)
    # max over earlier (time - event), plus event, is the least strictly rising sequence above `time`.
    lifted = np.maximum.accumulate(time - event + user * (2 * spec.days * 86_400)) - user * (2 * spec.days * 86_400)
    return user, lifted + event


def _draw_items(
    spec: SyntheticSpec,
    favour_UK: np.ndarray,
    share_MN: np.ndarray,
    user: np.ndarray,
    domain: np.ndarray,
    n_events_U: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """One item per event, all users in step; -1 where a domain is exhausted for a user."""
    n_domains, n_items = share_MN.shape
    seen_MUN = np.zeros((n_domains, spec.users, n_items), bool)
    previous_MU = np.full((n_domains, spec.users), -1)
    first_event_U = np.cumsum(n_events_U) - n_events_U
    item = np.full(len(user), -1, np.int64)
    for step in range(int(n_events_U.max())):
        events = first_event_U[n_events_U > step] + step
        for m in range(n_domains):
            of_domain = events[domain[events] == m]
            who = user[of_domain]
            p_BN = next_item_distribution(spec, favour_UK[who], share_MN[m], previous_MU[m, who], seen_MUN[m, who])
            possible = p_BN.any(axis=1)
            of_domain, who, cumulative_BN = of_domain[possible], who[possible], np.cumsum(p_BN[possible], axis=1)
            drawn = (rng.random(len(of_domain))[:, None] * cumulative_BN[:, -1:] >= cumulative_BN).sum(axis=1)
            item[of_domain], previous_MU[m, who], seen_MUN[m, who, drawn] = drawn, drawn, True
    return item


class SyntheticAdapter:
    """All sources with adapter `synthetic` are domains of one world."""

    def __init__(self, spec: CorpusSpec):
        self.spec = spec.synthetic
        self.seed = spec.seed
        self.domains = [source.name for source in spec.sources if source.adapter == "synthetic"]
        self.platforms = {source.name: source.platform for source in spec.sources}
        if self.spec.tastes > len(TASTES) or self.spec.items > self.spec.tastes * len(STYLES):
            raise UserError(
                f"config.corpus.synthetic: at most {len(TASTES)} tastes and {len(STYLES)} items per taste can be told "
                "apart by their titles; "
                f"got {self.spec.tastes} tastes and {self.spec.items} items"
            )

    @functools.cached_property
    def world(self) -> World:
        return make_world(self.spec, self.domains, self.seed)

    def files(self, source: SourceSpec) -> dict[str, Path]:
        return {}

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        m = self.domains.index(source.name)
        world = self.world
        mine = world.domain == m
        domains = pa.array(np.full(int(mine.sum()), domain, np.int16))
        users = pa.array(_user_names(self.spec.users)).take(pa.array(world.user[mine]))
        ids = pa.array(_item_names(source.name, self.spec.items))
        interactions = {
            "domain": domains,
            "user_id": users,
            "item_id": ids.take(pa.array(world.item[mine])),
            "time": pa.array(world.time[mine]),
        }
        engine.insert("raw_interactions", list(interactions), pa.table(interactions))
        items = {
            "domain": pa.array(np.full(self.spec.items, domain, np.int16)),
            "item_id": ids,
            "title": pa.array(world.titles[m]),
        }
        engine.insert("raw_items", list(items), pa.table(items))
        return "timestamp"

    def oracle(
        self,
        source: SourceSpec,
        user: np.ndarray,
        offsets: np.ndarray,
        item_ids: Sequence[str],
        catalogue: Sequence[str],
    ) -> np.ndarray:
        """The exact next-item distribution [n, N] float32 of users with these histories (flat `item_ids`, cut by
        `offsets`)."""
        number = {name: n for n, name in enumerate(_item_names(source.name, self.spec.items))}
        row_of = {user_key(source.platform, name): row for row, name in enumerate(_user_names(self.spec.users))}
        who = np.array([row_of[key] for key in user.tolist()], np.int64)
        history = np.array([number[name] for name in item_ids], np.int64)
        seen_BN = np.zeros((len(who), self.spec.items), bool)
        seen_BN[np.repeat(np.arange(len(who)), np.diff(offsets)), history] = True
        previous_B = np.where(np.diff(offsets) > 0, history[np.maximum(offsets[1:] - 1, 0)], -1)
        m = self.domains.index(source.name)
        p_BN = next_item_distribution(self.spec, self.world.favour_UK[who], self.world.share_MN[m], previous_B, seen_BN)
        return p_BN[:, [number[name] for name in catalogue]].astype(np.float32)


def _user_names(n: int) -> list[str]:
    return [f"user-{u:07d}" for u in range(n)]


def _item_names(domain: str, n: int) -> list[str]:
    return [f"{domain}-{i:05d}" for i in range(n)]
