"""Data on disk and on its way to the model: shards, word times, interleaving, packing, the stream."""
