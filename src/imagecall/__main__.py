"""`python -m imagecall`: the command."""

import sys

from imagecall.cli import main

sys.exit(main())
