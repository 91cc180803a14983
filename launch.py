"""The command `cprec` from a clone, without installation: `python launch.py JOB --config=FILE.py --workdir=DIR`."""

import sys

from cprec_jax.cli import command

if __name__ == "__main__":
    sys.exit(command())
