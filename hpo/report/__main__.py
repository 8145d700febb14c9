"""`python -m hpo.report`."""

import sys

from hpo.report.command import main

if __name__ == "__main__":
    sys.exit(main())
