"""WordNet's sentences in a restricted vocabulary."""

from __future__ import annotations

import pytest

from data_prep.wordnet_sentences import joined, most_common, named, prepare_wordnet_sentences, read_sentences
from salad_ds.assets import resolve
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError

LINES = {
    "data.noun": '  1 licence\n00000001 06 n 01 lane 1 000 | a narrow road; "the lane to the old farm was narrow"  \n',
    "data.verb": "00000002 38 v 01 go 0 000 | move along a road  \n",
    "data.adj": "00000003 00 a 01 old 0 000 | not young (of people)  \n",
    "data.adv": '00000004 02 r 01 so 0 000 | in this way; "it was so"  \n',
}


@pytest.fixture
def made(tmp_path):
    for name, text in LINES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def contents(directory):
    shards = ShardSet.open(directory)
    return {sample.text: sample.meta["domain"] for sample in (shards.read(i) for i in range(len(shards)))}


def test_definitions_and_examples_are_sentences_of_their_domain(made, tmp_path):
    assert read_sentences([made / name for name in LINES]) == {
        "a narrow road": "noun.artifact", "the lane to the old farm was narrow": "noun.artifact",
        "move along a road": "verb.motion", "not young": "adj.all", "in this way": "adv.all"}
    prepare_wordnet_sentences(made, tmp_path / "out", min_words=2, text_words=2)
    found = contents(tmp_path / "out")
    assert found["move along a road."] == "verb.motion" and len(found) == 5
    prepare_wordnet_sentences(made, tmp_path / "verbs", min_words=2, text_words=2, domains="verb,adv.all")
    assert set(contents(tmp_path / "verbs").values()) == {"verb.motion", "adv.all"}


def test_the_vocabulary_is_that_of_the_most_frequent_words():
    sentences = {"a b c": "x", "a b": "x", "a d": "x"}
    assert most_common(sentences, 2) == {"a", "b"} and most_common(sentences, 3) == {"a", "b", "c"}
    assert most_common(sentences, 0) == set("abcd")


def test_neighbours_of_a_domain_are_joined_until_they_are_long_enough():
    domain_of = {"a b": "x", "c d": "y", "e f": "x", "g h": "x"}
    assert [(text, domain) for _, text, domain in joined(list(domain_of), domain_of, 4)] == [("a b. e f.", "x")]


def test_what_is_not_there_is_refused(made, tmp_path):
    with pytest.raises(DataError, match="no domain 'noun.cheese'"):
        named("noun.cheese")
    with pytest.raises(DataError, match="split 'dev'"):
        prepare_wordnet_sentences(made, tmp_path / "out", split="dev")
    (made / "data.adv").write_text("no record\n")
    with pytest.raises(DataError, match="line 1 is not a WordNet"):
        prepare_wordnet_sentences(made, tmp_path / "out")


@pytest.mark.assets
def test_train_and_test_of_the_real_wordnet_share_no_sentence(tmp_path):
    source = resolve("packaged:wordnet")
    found = {}
    for split in ("train", "test"):
        prepare_wordnet_sentences(source, tmp_path / split, split=split, words=1000)
        found[split] = contents(tmp_path / split)
        assert all(len(text.split()) >= 20 for text in found[split])
    sentences = [{one.strip() for text in texts for one in text.split(".")} - {""} for texts in found.values()]
    assert not sentences[0] & sentences[1] and len(found["train"]) > 900 and len(found["test"]) > 100
    assert len({word for part in sentences for one in part for word in one.replace(",", "").split()}) <= 1000
