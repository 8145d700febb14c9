"""What the search costs: `python -m hpo.bench` writes build/bench/search.json and prints its tables."""
