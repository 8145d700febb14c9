"""The two-step hyperparameter search (Yu et al. 2023, doi:10.1175/AIES-D-23-0013.1): search, study, report.

Step 1 trains many configurations on a small part of the data, step 2 retrains the best of them on all of it.
`python -m hpo.search` runs both, `python -m hpo.report` draws what came out.
"""
