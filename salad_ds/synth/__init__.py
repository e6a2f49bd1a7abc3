"""Text to speech: engines behind one protocol, text normalisation, and speech shards with word times."""
