"""A model for tests whose belief is a fixed function of the customer."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from nba import draws


@dataclass
class Believer:
    """Believes in effects that are spread evenly over customers.

    Attributes:
        model_id: Name of the model.
        least: Smallest effect.
        spread: How much more the largest is.
    """

    model_id: str = "believer"
    least: float = 0.0
    spread: float = 0.1

    def scores(self, features, catalog):
        """Give scores of every customer and treatment, as a model does."""
        ids, k = features["customer_id"].to_pylist(), len(catalog.treatment_ids)
        even = np.column_stack([draws.uniform(ids, f"uplift {j}") for j in range(k)])
        uplift = even * self.spread + self.least
        uplift[:, 0] = 0
        return SimpleNamespace(
            p_response=0.1 + uplift,
            uplift=uplift,
            uplift_se=np.full_like(uplift, 0.01),
            margin_per_response=np.full(len(ids), 30.0),
        )
