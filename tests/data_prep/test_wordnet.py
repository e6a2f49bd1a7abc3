"""WordNet: readable texts, benchmark items that are in none of them."""

import re

import pytest

from data_prep.wordnet import clean_gloss, is_held_out, parse, prepare_wordnet, wordnet_items
from salad_ds.assets import resolve
from salad_ds.data.shards import ShardSet
from salad_ds.errors import DataError

LANE = ('03640660 06 n 01 lane 1 005 @ 03899328 n 0000 ~ 02882014 n 0000 ~ 03393534 n 0000 ~ 04163364 n 0000 '
        '~ 04466386 n 0000 | a well-defined track or path; for e.g. swimmers or lines of traffic  \n')


def test_a_record_is_read():
    lane = parse(LANE)
    assert (lane.offset, lane.domain, lane.words, lane.lex_ids) == (3640660, "noun.artifact", ("lane",), (1,))
    assert lane.definition == "a well-defined track or path"
    assert lane.hypernyms == (3899328,) and len(lane.hyponyms) == 4


@pytest.mark.parametrize("gloss, definition, examples", [
    ('(botany) a living organism lacking locomotion', "a living organism lacking locomotion", ()),
    ('a tangible entity; "it was full of rackets, balls and other objects"', "a tangible entity",
     ("it was full of rackets, balls and other objects",)),
    ("a number between 4 and 6", "", ()), ("the ratio of mass/volume", "", ()), ("gold, silver etc.", "", ()),
    ("entity", "", ()), ('a year; "the end of the year"', "a year", ()),
])
def test_glosses_are_cleaned(gloss, definition, examples):
    assert clean_gloss(gloss) == (definition, examples)


@pytest.mark.assets
def test_texts_and_items_of_the_real_wordnet_do_not_meet(tmp_path):
    source = resolve("packaged:wordnet")
    made = prepare_wordnet(source, tmp_path / "out")
    shards = ShardSet.open(tmp_path / "out")
    assert made["samples"] == len(shards) > 30000 and made["rejected"] == {}
    told, domains = [], set()
    for i in range(len(shards)):
        sample = shards.read(i)
        assert 25 <= shards.entry(i).n_words <= 70
        assert re.fullmatch(r"[A-Z][A-Za-z' ,.?!-]*[.?!]", sample.text), sample.text
        assert not is_held_out(int(sample.key[-8:]))
        told.append(sample.text.lower())
        domains.add(sample.meta["domain"])
    assert len(domains) == 26
    items = wordnet_items(source)
    assert len(items) > 500 and len({item.word for item in items}) == len(items)
    told = "\n".join(told)
    assert not [item for item in items if item.definition.lower() in told]
    assert all(item.word not in item.definition.lower() and is_held_out(item.offset) for item in items)
    assert not {item.offset for item in items} & {item.offset for item in wordnet_items(source, held_out=False)}


@pytest.mark.assets
def test_the_first_texts_are_the_same_whatever_the_limit(tmp_path):
    source = resolve("packaged:wordnet")
    for limit in (20, 50):
        prepare_wordnet(source, tmp_path / str(limit), limit=limit)
    few, more = ShardSet.open(tmp_path / "20"), ShardSet.open(tmp_path / "50")
    assert [few.read(i).meta for i in range(20)] == [more.read(i).meta for i in range(20)]
    assert len({more.read(i).meta["domain"] for i in range(50)}) > 8


def test_a_file_that_is_not_wordnet_is_refused(tmp_path):
    with pytest.raises(DataError, match="wordnet-base"):
        prepare_wordnet(tmp_path, tmp_path / "out")
    (tmp_path / "data.noun").write_text("not a record\n")
    (tmp_path / "cntlist.rev").write_text("")
    with pytest.raises(DataError, match="line 1 is not a WordNet"):
        prepare_wordnet(tmp_path, tmp_path / "out")
