"""How fast a model runs here, beside what the machine can do and what another engine reaches.

Every engine is a process of its own that loads the model once and does pieces of work when told to
(`worker`, `process`), so that repetitions of several engines take turns and nobody's memory counts
for another. `limits` measures the machine between them, `measure` holds the samples and `report`
makes them into one object.
"""
