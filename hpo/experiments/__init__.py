"""The experiments of EXPERIMENTS.md: `python -m hpo.experiments NAME` runs one and writes its tables and figures."""
