"""``python -m salad_ds``, and what ``deepspeed --module salad_ds`` starts."""

import sys

from salad_ds.cli import main

sys.exit(main())
