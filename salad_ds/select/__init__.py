"""Active selection of texts to be synthesised: embed, cluster, probe, sample."""
