"""Word times for speech shards: when each word of a transcript is spoken."""
