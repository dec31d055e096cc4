"""The evaluation room: what is a condensed dataset worth? Students, baselines, scores.

`raycondense.evaluation.run.evaluate` is the one door to a number, and `raycondense.evaluation.score` the one place
that reads a test split. Import from the modules themselves: nothing is loaded here.
"""
