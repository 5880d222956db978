"""How fast the model is on this machine, beside how fast it could be: `groma bench`.

    machine   matrix rate, copy bandwidth --+
    work      FLOPs and bytes of a stage ---+--> floor of a stage
    stages    the stages of an answer, one by one, and a whole answer
    growth    what more regions, pictures, turns and a larger batch cost
    report    all of it as a table and as JSON

Nothing of the model is repeated here: what is timed is what answers are made with.
"""
