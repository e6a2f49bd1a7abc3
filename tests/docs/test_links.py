"""Links of the pages lead somewhere: to files, to headings, and to the line on which a function is defined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from salad_ds.reference import GUIDES, definitions, relinked
from tests.docs.pages import PAGES, REPOSITORY

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_what_is_there(page):
    for text, target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page}: [{text}]({target})"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{page}: [{text}]({target})"


@pytest.mark.parametrize("guide", sorted(GUIDES.glob("*.md")), ids=lambda path: path.stem)
def test_guides_link_to_the_lines_of_this_code(guide):
    text = guide.read_text(encoding="utf-8")
    assert relinked(text, guide.parent) == text, "run python -m salad_ds.reference --write"


def test_the_method_is_linked_line_by_line():
    text = (GUIDES / "6-the-method-in-our-code.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[`([\w.]+)`\]\(([^)#]+)#L(\d+)\)", text)
    assert len(linked) > 20
    for name, path, line in linked:
        lines = (GUIDES / path).resolve().read_text(encoding="utf-8").splitlines()
        assert re.search(rf"\b(def|class) {name.split('.')[-1]}\b", lines[int(line) - 1])


def test_a_name_that_is_gone_is_an_error(tmp_path):
    (tmp_path / "code.py").write_text("import os\n\n\nclass A:\n    def b(self):\n        pass\n")
    assert definitions(tmp_path / "code.py") == {"A": 4, "A.b": 5}
    text = "[`A.b`](code.py#L{}), [`code.py`](code.py)"
    assert relinked(text.format(9), tmp_path) == text.format(5)
    with pytest.raises(KeyError, match="gone"):
        relinked("[`gone`](code.py)", tmp_path)


def test_guides_are_numbered_and_lead_to_the_next():
    guides = sorted(GUIDES.glob("*.md"))
    assert [path.name[0] for path in guides] == [str(number) for number in range(1, 7)]
    for guide, following in zip(guides, guides[1:], strict=False):
        assert f"]({following.name})" in guide.read_text(encoding="utf-8")
