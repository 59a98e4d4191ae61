"""python -m pretint: as the command of that name."""

import sys

from pretint.cli import main

sys.exit(main())
