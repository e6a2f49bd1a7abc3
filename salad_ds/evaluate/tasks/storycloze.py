"""StoryCloze: four sentences of a story, and which of two endings is right. For the files one asks its authors.

``cloze_test_test__spring2016 - cloze_test_ALL_test.csv`` (1,871 items, ``..._val``: 1,871; of winter2018, ``..._val``:
1,571, and a test set without answers). The columns are its authors'; the row is ours, in their manner, for theirs may
not be handed on:

    InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,
    RandomFifthSentenceQuiz2,AnswerRightEnding
    0a1b2c3d-0000-4000-8000-000000000001,Ann wanted a dog.,She went to the shelter.,A small brown one ran up to her.,
    It licked her hand.,Ann took the dog home.,Ann bought a boat.,1

The hub's loader (LSDSem/story_cloze) has ``story_id, input_sentence_1`` to ``_4, sentence_quiz1, sentence_quiz2,
answer_right_ending``.

**Spoken StoryCloze** (arXiv 2305.13009; sStoryCloze has the authors' wrong endings, tStoryCloze others) is pairs of
WAVs, each a whole story of five sentences, of the 2016 test set. What is heard here is the four sentences, and the two
endings are read: the right story's recording up to its fifth sentence. That place is found by aligning the story to
its recording, which also shows whether they belong together. Not seen by us: the names of these files. They are taken
to begin with the story's number in the table (from 0 or from 1) or with its InputStoryid, and the two files of a story
to differ behind that, the wrong one having a word such as ``incorrect``, ``neg`` or ``wrong``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from salad_ds.data.utterances import Refused, Utterance
from salad_ds.errors import DataError
from salad_ds.evaluate.tasks.items import Item, continuation, number_of, text_of
from salad_ds.evaluate.tasks.layouts import Layout, Record

OWN = ([f"InputSentence{n}" for n in range(1, 5)], [f"RandomFifthSentenceQuiz{n}" for n in (1, 2)],
       "AnswerRightEnding", "InputStoryid")  # fmt: skip
HUB = ([f"input_sentence_{n}" for n in range(1, 5)], [f"sentence_quiz{n}" for n in (1, 2)],
       "answer_right_ending", "story_id")  # fmt: skip
WRONG = re.compile(r"incorrect|wrong|neg|false|bad", re.IGNORECASE)


def parser(names: tuple[list[str], list[str], str, str]) -> Layout:
    sentences, endings, answer, story = names

    def parse(record: Record, where: tuple[Path, int]) -> Item:
        asked = " ".join(text_of(record, name) for name in sentences)
        options = tuple(continuation(record[name]) for name in endings)
        right = number_of(record[answer], answer) - 1
        return Item(text_of(record, story), asked, options, right, audio=str(where[1] - 1))

    return Layout(story, (*sentences, *endings, answer, story), parse)


STORYCLOZE = (parser(OWN), parser(HUB))


def story_of(path: Path) -> str:
    return re.split(r"[_. ]", path.stem)[0]


def recordings(task: str, speech: Path, items: list[Item]) -> Iterator[Utterance | Refused]:
    """Of each item, the whole right story; ``extra["heard_words"]``: how many of its words are to be heard.

    Raises DataError where no file's name is a story's.
    """
    paths = sorted(speech.rglob("*.wav"))
    files = {story_of(path): path for path in reversed(paths) if not WRONG.search(path.stem)}
    first = 0 if any(story_of(path) == "0" for path in paths) else 1
    named = {item.id: files.get(item.id) or files.get(str(int(item.audio) + first)) for item in items}
    if not any(named.values()):
        example = next(iter(files.values()), None)
        but = f" (but {example.name})" if example else ""
        raise DataError(f"{speech} has no recording of {task}'s stories{but}",
                        "give the directory of its WAVs, whose names begin with the story's number")  # fmt: skip
    for item in items:
        path = named[item.id]
        if path is None:
            yield Refused("no recording", item.id)
            continue
        yield Utterance(item.id, item.asked + item.options[item.answer], path,
                        extra={"heard_words": len(item.asked.split())})  # fmt: skip
