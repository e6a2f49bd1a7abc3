"""One file per corpus: ``prepare_X(corpus_dir, output_dir, ...)`` writes shards and returns their manifest.

Each is runnable: ``python data_prep/X.py SRC OUT``. A new corpus is a new file with a function of that name; recipes
name it by ``corpora[].kind``.
"""
