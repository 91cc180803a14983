"""Objective `catalogue`: the exact likelihood of each next title among all titles of its set.

Optionally next-token prediction is added.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.train.catalogue_loss import Temperature, catalogue_nll_sum
from cprec_jax.train.catalogue_rows import COLUMNS, Capacities, row_columns
from cprec_jax.train.catalogue_tables import CatalogueTables
from cprec_jax.train.objectives.cpt import Cpt


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogueLikelihood:
    """Nats per target item, plus `lm_weight` times nats per target token of the same rows.

    An item is a target where all its tokens have loss and something precedes it in its document.

    loss_chunk: see `Cpt`; used only where `lm_weight` is not 0.
    loss_temperature: see `catalogue_nll_sum`.
    tables: of the catalogues.
    capacities: of the rows (`catalogue_rows.capacities`).
    """

    decoder: Decoder
    loss_chunk: int
    lm_weight: float
    loss_temperature: Temperature
    tables: CatalogueTables
    capacities: Capacities

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of `Cpt` and of `row_columns`."""
        return (*Cpt.columns, *COLUMNS)

    @property
    def terms(self) -> tuple[str, ...]:
        """item_nll; also token_nll where `lm_weight` is not 0."""
        return ("item_nll", "token_nll") if self.lm_weight > 0 else ("item_nll",)

    @property
    def row_columns(self) -> Callable[[Mapping[str, Any]], dict[str, np.ndarray]]:
        """A function of a stored row; it needs the row's `items`."""
        return functools.partial(row_columns, self.tables, self.capacities)

    def weights(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The numbers of target items and of target tokens."""
        tokens = self._language_model.weights(batch) if self.lm_weight > 0 else {}
        return {"item_nll": jnp.sum(batch["n_items"])} | tokens

    def sums(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """The summed loss of the target items in nats, and `lm_weight` times that of the target tokens."""
        x_BTD = self._language_model.hidden(params, batch, key)
        w_VD = head_weight(params, self.decoder.config)
        sums = {"item_nll": catalogue_nll_sum(x_BTD, w_VD, batch, self.tables, self.loss_temperature)}
        if self.lm_weight > 0:
            sums["token_nll"] = self.lm_weight * self._language_model.token_nll(x_BTD, w_VD, batch)
        return sums

    def counts(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """items: target items; the others as in `Cpt`."""
        return {"items": jnp.sum(batch["n_items"])} | self._language_model.counts(batch)

    @property
    def _language_model(self) -> Cpt:
        return Cpt(decoder=self.decoder, loss_chunk=self.loss_chunk)
