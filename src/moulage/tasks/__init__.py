"""Each step of the road as a function of a recipe and a run folder.

``prepare`` reads, audits and splits; ``plan`` lists what is to be computed, each task with the folder that its settings
hash to; ``execute`` does one task, wherever it is called: another process, another machine that sees the folder;
``results`` turns what the tasks left into scores and comparisons.
"""
