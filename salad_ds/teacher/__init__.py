"""The teacher: a frozen text LLM, asked once about every text (store, precompute) or at every step (live).

Read in this order: sampling, topk and sampled (what is kept, in the numbers of grid), codec (as bytes, with bits and
interpolative), shard and store (on disk), texts and forward (what is asked, and who answers), precompute (all of it
together), stored and live (what training sees).
"""
