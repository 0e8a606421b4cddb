"""`python -m imagecall`: the command."""

import sys

from imagecall.commands.main import main

sys.exit(main())
