"""The command ``python -m pretint``, which does the same as ``pretint``."""

import sys

from pretint.cli import main

sys.exit(main())
