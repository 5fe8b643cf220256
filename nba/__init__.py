"""Next-best-action experimentation platform.

The folder list is the flow: `histories` unify raw sources into one `history`, `features` look back
from a moment, `models` score, `policy` turns scores into probabilities within the limits, `serving`
decides a batch and delivers it, `feedback` closes the loop; `experiments`, `attribution` and
`evaluation` read what happened. Stages meet at the tables of `nba.tables`, never at each other.
"""

__version__ = "0.1.0"
