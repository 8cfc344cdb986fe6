"""Run as `python -m exportloss`."""

import sys

from exportloss.cli import main

sys.exit(main())
