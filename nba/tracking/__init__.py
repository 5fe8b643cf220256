"""The one door to MLflow: runs, figures, data sets, the registered policy and its aliases.

`store` says where, `runs` writes, `registry` reads and names. MLflow takes seconds to import and is only
imported when something is read from or written to a store that exists or is to be made.
"""

from nba.tracking.registry import CHALLENGER as CHALLENGER
from nba.tracking.registry import CHAMPION as CHAMPION
from nba.tracking.registry import GATE as GATE
from nba.tracking.registry import HAS_OPEN as HAS_OPEN
from nba.tracking.registry import IS_COMPARED as IS_COMPARED
from nba.tracking.registry import MEASURED_ON as MEASURED_ON
from nba.tracking.registry import Registered as Registered
from nba.tracking.registry import bin_run as bin_run
from nba.tracking.registry import find as find
from nba.tracking.registry import has_policy as has_policy
from nba.tracking.registry import load_model as load_model
from nba.tracking.registry import load_policy as load_policy
from nba.tracking.registry import promote as promote
from nba.tracking.registry import version as version
from nba.tracking.registry import versions as versions
from nba.tracking.runs import Training as Training
from nba.tracking.runs import amend as amend
from nba.tracking.runs import log_run as log_run
from nba.tracking.runs import log_training as log_training
from nba.tracking.runs import pyfunc as pyfunc
from nba.tracking.runs import save_policy as save_policy
from nba.tracking.store import CHECKOUT as CHECKOUT
from nba.tracking.store import Store as Store
from nba.tracking.store import claim as claim
from nba.tracking.store import opened as opened
from nba.tracking.store import policy_name as policy_name
from nba.tracking.store import purchases_name as purchases_name
from nba.tracking.store import resolve as resolve
from nba.tracking.store import setup as setup
