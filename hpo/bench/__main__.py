import sys

from hpo.bench.run import main

if __name__ == "__main__":  # workers of the benchmark import this file too
    sys.exit(main())
