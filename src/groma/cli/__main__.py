"""`python -m groma.cli` is `groma`; torchrun starts training processes this way."""

import sys

from groma.cli import main

sys.exit(main())
