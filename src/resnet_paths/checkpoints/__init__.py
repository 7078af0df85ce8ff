"""Files of weights, whatever model they are of: how they are read, under which names, and all those of a run."""
