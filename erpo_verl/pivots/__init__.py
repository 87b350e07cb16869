"""Critical decision pivots, measured: how much the outcome depends on a token, found by replacing it and letting the model go on."""
