"""How many examples a property test of generated files takes: 20 in `make test`, more with `CPREC_FUZZ=1`."""

import os

EXAMPLES = 20 if os.environ.get("CPREC_FUZZ") is None else 400
