"""`python -m transformers_linvt.cli`."""

import sys

from . import main


sys.exit(main())
