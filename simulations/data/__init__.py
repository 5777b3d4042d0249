"""Windows by person: the sources, the honest split, and the folders that devices read."""
