"""Speech and text shards: WebDataset tars with an index, word times and a manifest. The names to import are here.

    with ShardWriter(directory, source="my corpus", made_from={...}) as writer:
        writer.add(Sample(key, {"text": ..., "duration": ..., "sample_rate": ...}, flac_bytes))
    shards = ShardSet.open(directory)
    shards.read(7), shards.entry(7).duration, shards.words(7)

Plain ``webdataset`` reads the tars; ``refer.refer`` takes in tars that somebody else wrote. The files and their formats
are described in docs/formats.md.
"""

from salad_ds.data.rejections import lines as rejection_lines
from salad_ds.data.samples import SCHEMA, IndexEntry, Sample, make_key
from salad_ds.data.shard_ref import ShardRef
from salad_ds.data.shard_set import ShardSet
from salad_ds.data.shard_writer import ShardWriter, finished
from salad_ds.data.word_times import Word, WordTimes, read_words, words_path, write_words

__all__ = ["SCHEMA", "IndexEntry", "Sample", "ShardRef", "ShardSet", "ShardWriter", "Word", "WordTimes", "finished",
           "make_key", "read_words", "rejection_lines", "words_path", "write_words"]
