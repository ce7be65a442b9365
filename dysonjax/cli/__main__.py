"""`python -m dysonjax.cli`: the command line without its script."""

import sys

from dysonjax.cli.app import main

sys.exit(main())
