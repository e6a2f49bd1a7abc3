"""The selection's page: what it says, that it stays what it is, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from salad_ds.audio import decode
from salad_ds.errors import DataError
from salad_ds.measure import sections
from salad_ds.measure.artefacts import Run
from salad_ds.select import players
from salad_ds.select.atlas import SIDE, TALL, apart
from salad_ds.select.page import selection_page
from salad_ds.select.panels import difference, short
from salad_ds.select.probe import probe_speech
from salad_ds.select.view import read_view
from salad_ds.table import read_table, write_table

pytestmark = pytest.mark.assets
browser = pytest.mark.browser
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"quoted' &amp; $x$"


@pytest.fixture(scope="module")
def page(measured) -> Path:
    """The page of the measured selection."""
    return selection_page(measured[0])


@pytest.fixture(scope="module")
def html(page) -> str:
    return page.read_text()


@pytest.fixture
def copy(measured, tmp_path):
    """The recipe with a copy of its selection in a directory of its own, to be damaged."""
    shutil.copytree(measured[0].path("stage2"), tmp_path / "stage2", ignore=shutil.ignore_patterns("model"))
    return replace(measured[0], workdir=str(tmp_path))


def visible(html: str) -> str:
    """The words of the page."""
    body = re.sub(r"<(style|script|svg).*?</\1>", " ", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_page_says_what_was_done(html, measured, tables):
    recipe, words = measured[0], visible(html)
    clusters, selected, probes = tables("clusters"), tables("selected"), tables("probes")
    for piece in ("36 texts of text/wordnet", "packaged:minilm", "3 clusters", "8 texts", "packaged:whisper-tiny.en",
                  "hibari", "voice", "stage1", "P web · M 2", f"{recipe.select.max_cer:.1%}".replace("%", " %")):
        assert piece in words, piece
    for row in clusters:
        assert f"{row['m']:.3f}" in words and ", ".join(row["words"]) in words
        assert f"{row['p_target'] * 100:.1f} %" in words and f"{row['p_web'] * 100:.1f} %" in words
    aside = [row for row in clusters if row["set_aside"]]
    assert len(aside) == 1
    section = words[words.rindex("Set aside A high M"):]
    assert f"Cluster {aside[0]['cluster']} :" in section and "character error rate" in section
    assert all(row["text"] in words for row in selected) and all(row["text"] in words for row in probes)
    assert not any(row["cluster"] == aside[0]["cluster"] for row in selected)


def test_the_overall_change_is_that_of_the_pairs_that_were_kept(html, measured, tables):
    aside = {row["cluster"] for row in tables("clusters") if row["set_aside"]}
    after = {row["key"]: row for row in measured[1].to_pylist()}
    pairs = [(row["m"], after[row["key"]]["m"], row["tokens"]) for row in tables("probes")
             if row["cluster"] not in aside and row["m"] is not None]
    before, later, tokens = (np.array(column, float) for column in zip(*pairs, strict=True))
    change = ((later - before) * tokens).sum() / tokens.sum()
    assert f"{change:.3f}".replace("-", "−") in visible(html)
    assert f"The same {len(pairs)} utterances" in visible(html)
    assert f"{(before * tokens).sum() / tokens.sum():.3f}" in visible(html)


def test_the_same_inputs_give_the_same_bytes(page, measured):
    before = page.read_bytes()
    page.unlink()
    assert selection_page(measured[0]).read_bytes() == before
    assert len(before) < 1_500_000 and str(measured[0].workdir).encode() not in before


def test_nothing_outside_is_named_and_only_our_script_may_run(html):
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1])
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy and "unsafe-eval" not in policy
    links = re.findall(r'\s(?:src|href|xlink:href|action|data)="([^"]*)"', html)
    assert links and all(link.startswith(("#", "data:audio/ogg;base64,")) for link in links)
    assert "://" not in re.sub(r"http://www\.w3\.org/\S+", "", html)
    assert not re.search(r"\son\w+=", re.sub(r"<script>.*?</script>", "", html, flags=re.S))


def test_every_clip_is_the_utterance_that_stands_beside_it(html, measured, tables):
    room = measured[0].path("stage2/selection")
    found = re.findall(r'<p>([^<]*)</p><div class="player"><audio [^>]*src="data:audio/ogg;base64,([^"]+)"', html)
    assert len(found) >= 9
    view = read_view(measured[0])
    keys = {row["text"]: row["key"] for row in tables("probes") + tables("selected")}
    for told, data in found:
        sound, rate = decode(base64.b64decode(data))
        key = keys[unescape(told)]
        whole = [speech.shards.entry(speech.places[key]).duration for speech in (view.speech, view.probe_speech)
                 if key in speech.places]
        assert len(sound) / rate == pytest.approx(min(whole[0], 15), abs=0.05) and len(base64.b64decode(data)) < 16_000
    assert probe_speech(room, read_table(room / "probes.parquet")[1]).is_dir()


def test_what_is_missing_is_said_and_no_number(copy, tmp_path):
    (tmp_path / "stage2/selection/probes-stage2.parquet").unlink()
    words = visible(selection_page(copy).read_text())
    assert "have not been measured after Stage II yet: stage2 has to be trained" in words
    assert "M after" not in words.replace("M after Stage II not yet", "").replace("M before and after", "")
    shutil.rmtree(tmp_path / "stage2/speech")
    html = selection_page(copy).read_text()
    assert "not spoken yet" in visible(html) and "<audio" in html, "the probes can still be heard"
    for path in tmp_path.glob("stage2/selection/probe-*/speech"):
        shutil.rmtree(path)
    html = selection_page(copy).read_text()
    assert "Nothing has been spoken yet" in visible(html) and "<audio" not in html
    (tmp_path / "stage2/selection/clusters.parquet").unlink()
    with pytest.raises(DataError, match=r"clusters\.parquet is missing"):
        selection_page(copy)


def test_an_utterance_that_cannot_be_played_is_named(copy, tmp_path):
    """Bytes of its recording are overwritten: the others are still there."""
    view = read_view(copy)
    key = view.clusters[0].drawn[0]["key"] if view.clusters[0].drawn else view.clusters[1].drawn[0]["key"]
    entry = view.speech.shards.entry(view.speech.places[key])
    with open(tmp_path / "stage2/speech" / Path(str(entry.shard)).name, "r+b") as file:
        file.seek(entry.audio[0])
        file.write(bytes(entry.audio[1]))
    html = selection_page(copy).read_text()
    assert f"{key} cannot be played" in visible(html) and html.count("<audio") >= 5


def test_a_full_page_says_so(measured, monkeypatch):
    """Every cluster has its first clip before any has a second."""
    whole = players.choose(read_view(measured[0]))
    assert len(whole.clips) == whole.wanted
    monkeypatch.setattr(players, "PAGE_BYTES", 30_000)
    view = read_view(measured[0])
    chosen = players.choose(view)
    assert 3 <= len(chosen.clips) < chosen.wanted == whole.wanted
    with_texts = [cluster.drawn[0]["key"] for cluster in view.clusters if cluster.drawn]
    assert {("drawn", key) for key in with_texts} < set(chosen.clips)
    assert [kind for kind, _ in chosen.clips][len(with_texts)] == "probe", "then the first probes"
    told = f"has room for {len(chosen.clips)} of {chosen.wanted}"
    before = (measured[0].path("stage2") / "selection.html").read_bytes()
    try:
        assert told in visible(selection_page(measured[0]).read_text())
    finally:
        (measured[0].path("stage2") / "selection.html").write_bytes(before)


def test_the_report_leads_to_the_page(page, measured, tables):
    run = Run(measured[0], [], clusters=tables("clusters"), selected=tables("selected"))
    assert '<a href="../stage2/selection.html">' in sections.selection(run)
    html = page.read_bytes()
    page.unlink()
    try:
        assert "selection.html" not in sections.selection(run)
    finally:
        page.write_bytes(html)


def rewritten(path: Path, **columns) -> None:
    """A table with other values in some columns, by the same writer."""
    table, made_from = read_table(path)
    write_table(path, {field.name: (field.type, columns.get(field.name, table[field.name].to_pylist()))
                       for field in table.schema}, made_from)


@pytest.fixture
def hostile(copy, tmp_path):
    """The selection of somebody who writes HTML into texts, words, names and what was heard."""
    room = tmp_path / "stage2/selection"
    for name, columns in (("clusters", {"words": [[HOSTILE] * 4] * 3, "nearest": [[HOSTILE]] * 3}),
                          ("selected", {"text": [HOSTILE] * 8}),
                          ("probes", {"text": [HOSTILE] * 9, "heard": [HOSTILE[::-1] + HOSTILE] * 9, "cer": [0.5] * 9,
                                      "voice": [HOSTILE] * 9, "rejected": [HOSTILE] * 9})):
        rewritten(room / f"{name}.parquet", **columns)
    copy.name = HOSTILE
    return selection_page(copy)


def test_hostile_text_stays_text(hostile):
    html = hostile.read_text()
    assert html.count("<script") == 1 and "<img" not in html and visible(html).count("alert(1)") > 10
    assert not re.search(r"<(?!/?(?:!doctype|[a-z][a-z0-9]*)\b)", html.split("<script>")[0].split("</style>")[1], re.I)


def test_a_text_that_was_not_spoken_is_listed_with_its_reason(copy, tmp_path):
    path = tmp_path / "stage2/speech/items.parquet"
    reasons = ["character error rate"] + read_table(path)[0]["rejected"].to_pylist()[1:]
    rewritten(path, rejected=reasons)
    words = visible(selection_page(copy).read_text())
    assert "Not spoken: 1 (character error rate)." in words and words.count("not spoken: character error rate") == 1


@browser
def test_hostile_text_stays_text_in_a_browser(hostile, visit):
    page = visit(hostile)  # the fixture fails the test on a dialog, a request or an error
    page.evaluate("document.querySelectorAll('details').forEach((panel) => { panel.open = true; })")
    assert page.locator("script").count() == 1 and page.locator("img").count() == 0
    assert page.locator(".items p").first.inner_text().startswith("</script><script>")


# In the browser


def panel_of(page, number) -> object:
    return page.locator(f"#cluster-{number}")


@browser
def test_it_opens_from_the_disk(page, visit):
    shown = visit(page)
    assert shown.title() == "small: what Stage II selected" and shown.locator("h1").count() == 1
    assert shown.locator(".bubble").count() == 3 and shown.locator("details.cluster").count() == 3
    assert shown.evaluate("getComputedStyle(document.querySelector('.bubble')).borderTopLeftRadius") == "50%"


@browser
def test_every_player_plays(page, visit):
    shown = visit(page)
    shown.get_by_role("button", name="Open all").click()
    count = shown.locator("audio").count()
    assert count >= 9
    lengths = shown.evaluate("""async () => {
        const found = [];
        for (const sound of document.querySelectorAll("audio")) {
          if (sound.readyState < 1) await new Promise((done, fail) => {
            sound.onloadedmetadata = done; sound.onerror = () => fail(new Error(sound.error.message)); sound.load();
          });
          found.push(sound.duration);
        }
        return found;
    }""")
    assert len(lengths) == count and all(0.5 < length <= 15.1 for length in lengths)
    heard = shown.evaluate("""async () => {
        const [one, other] = document.querySelectorAll("audio");
        one.loop = other.loop = true;  // neither ends by itself
        await one.play();
        const begun = one.currentTime;
        for (const end = performance.now() + 20000; one.currentTime - begun <= 0.1 && performance.now() < end;)
          await new Promise((done) => setTimeout(done, 50));
        const went = one.currentTime - begun;
        await other.play();
        await new Promise((done) => setTimeout(done, 50));
        return [went, one.paused, other.paused];
    }""")
    assert heard[0] > 0.1 and heard[1:] == [True, False], "one at a time"


@browser
def test_the_keyboard_reaches_opens_and_closes_every_cluster(page, visit):
    shown = visit(page)
    shown.locator("#by-change").focus()
    reached = []
    for _ in range(4):
        shown.keyboard.press("Tab")
        number = shown.evaluate("document.activeElement.dataset.cluster")
        if number is None:
            break
        reached.append(number)
        card = shown.locator(".bubbles li", has=shown.locator(f"#bubble-{number}")).locator(".card")
        assert card.is_visible() and "M before" in card.inner_text()
        shown.keyboard.press("Enter")
        panel = panel_of(shown, number)
        assert panel.get_attribute("open") is not None
        assert shown.evaluate("document.activeElement.closest('details').id") == f"cluster-{number}"
        assert panel.bounding_box()["y"] < 900
        shown.keyboard.press("Escape")
        assert panel.get_attribute("open") is None
        assert shown.evaluate("document.activeElement.id") == f"bubble-{number}"
    assert sorted(reached) == ["0", "1", "2"]
    shown.keyboard.press("Escape")  # the card goes away, the focus stays
    assert shown.locator(".card:visible").count() == 0


@browser
def test_arrows_walk_the_map(page, visit):
    shown = visit(page)
    ms = {row["cluster"]: row["m"] for row in read_table(page.parent / "selection/clusters.parquet")[0].to_pylist()}
    shown.locator(".bubble").nth(1).focus()
    shown.keyboard.press("Home")
    focused = "Number(document.activeElement.dataset.cluster)"
    assert shown.evaluate(focused) == max(ms, key=ms.get)
    shown.keyboard.press("End")
    assert shown.evaluate(focused) == min(ms, key=ms.get)
    middles = {}
    for number in ms:
        box = shown.locator(f"#bubble-{number}").bounding_box()
        middles[number] = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    seen = set()
    for start in ms:
        for key, axis, sign in (("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowDown", 1, 1), ("ArrowUp", 1, -1)):
            shown.locator(f"#bubble-{start}").focus()
            shown.keyboard.press(key)
            went = shown.evaluate(focused)
            there = [n for n in ms if n != start and (middles[n][axis] - middles[start][axis]) * sign > 1]
            assert (went in there) if there else went == start
            seen.add(went)
    assert seen == set(ms)


@browser
def test_the_table_sorts(page, visit, tables):
    shown = visit(page)
    heads = shown.locator(".sortable thead th")
    names = [head.split("\n")[0] for head in heads.all_inner_texts()]
    assert all(heads.nth(i).get_attribute("aria-sort") == "none" for i in range(len(names)))
    rows = {row["cluster"]: row for row in tables("clusters")}

    def order():
        return [int(cell) for cell in shown.locator(".sortable tbody th").all_inner_texts()]

    for column, name in (("M before, 95 %", "m"), ("CER", "cer"), ("texts", "size"), ("drawn", "drawn")):
        at = names.index(column)
        heads.nth(at).get_by_role("button").focus()
        shown.keyboard.press("Enter")
        assert heads.nth(at).get_attribute("aria-sort") == "descending"
        assert [rows[n][name] for n in order()] == sorted((row[name] for row in rows.values()), reverse=True)
        shown.keyboard.press("Space")
        assert heads.nth(at).get_attribute("aria-sort") == "ascending"
        assert [rows[n][name] for n in order()] == sorted(row[name] for row in rows.values())
        assert sum(heads.nth(i).get_attribute("aria-sort") != "none" for i in range(len(names))) == 1
    heads.nth(0).get_by_role("button").click()
    assert order() == sorted(rows)


@browser
def test_colours_follow_the_switch_and_work_without_a_script(page, visit):
    shown = visit(page, scripts=False)

    def colours():
        return [shown.locator(".bubble").nth(i).evaluate("element => getComputedStyle(element).backgroundColor")
                for i in range(3)]

    before = colours()
    shown.locator("#by-change").check()
    after = colours()
    assert before != after and len(set(before)) > 1
    shown.locator(".bubble").nth(1).click()  # a link into the panel: the browser itself opens it
    number = shown.locator(".bubble").nth(1).get_attribute("data-cluster")
    assert panel_of(shown, number).locator(".inside").is_visible()
    assert shown.locator(".sortable button").count() == 0, "no button that does nothing"


@browser
@pytest.mark.parametrize("width", [380, 800, 1600])
def test_nothing_overflows(page, visit, width):
    shown = visit(page, width=width)
    shown.get_by_role("button", name="Open all").press("Enter")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    for number in range(3):
        shown.locator(f"#bubble-{number}").focus()
        box = shown.locator(".card:visible").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


@browser
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(page, visit, dark):
    """Every rule of WCAG 2.2 A and AA that axe knows, and its best practices, with everything open."""
    shown = visit(page, dark=dark)
    shown.get_by_role("button", name="Open all").click()
    shown.locator(".bubble").first.focus()
    found = Axe().run(shown, options={"resultTypes": ["violations"], "runOnly": [
        "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).response["violations"]
    assert not found, [(one["id"], one["impact"], [node["html"][:160] for node in one["nodes"][:3]]) for one in found]


@browser
def test_headings_and_names(page, visit):
    shown = visit(page)
    tags = shown.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((head) => head.tagName)")
    levels = [int(tag[1]) for tag in tags]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels[:-1], levels[1:], strict=True))
    for picture in shown.locator("svg[role=img]").all():
        assert len(picture.get_attribute("aria-label")) > 30
    names = [bubble.get_attribute("aria-label") for bubble in shown.locator(".bubble").all()]
    assert len(set(names)) == 3 and all("drawn" in name and "M " in name for name in names)


@browser
def test_light_and_dark_are_two_pages_and_neither_is_blank(page, visit):
    means = []
    for dark in (False, True):
        shot = visit(page, dark=dark).screenshot()
        pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("L"), float)
        assert pixels.std() > 10
        means.append(pixels.mean())
    assert means[0] > 200 and means[1] < 60


# Pieces


def test_bubbles_do_not_cover_each_other():
    random = np.random.default_rng(2)
    places = np.concatenate([random.uniform(0.3, 0.7, (20, 2)), np.full((4, 2), 0.5)]) * [SIDE, TALL]
    radii = random.uniform(10, 30, 24)
    moved = apart(places, radii)
    distance = np.linalg.norm(moved[:, None] - moved[None], axis=-1) + np.diag(np.full(24, np.inf))
    assert (distance > 0.95 * (radii[:, None] + radii[None])).all()
    assert (moved - radii[:, None] >= -1e-9).all() and (moved + radii[:, None] <= np.array([SIDE, TALL]) + 1e-9).all()
    assert np.array_equal(moved, apart(places, radii)) and np.array_equal(apart(moved, radii), apart(moved, radii))
    far = np.array([[100.0, 100.0], [800.0, 500.0]])
    assert np.array_equal(apart(far, np.array([20.0, 20.0])), far), "what is apart stays"


def test_what_was_heard_otherwise_is_marked():
    assert difference("The cat sat, there.", "the cat sat there") == "the cat sat there"
    assert difference("a cat sat on it", "a bat sat it") == "a <del>cat</del> <mark>bat</mark> sat <del>on</del> it"
    assert difference("a <b>", "a <i> c") == "a <del>&lt;b&gt;</del> <mark>&lt;i&gt; c</mark>"
    assert short("one two three", 9) == "one two …" and short("one", 9) == "one"


def test_tables_of_ours_only(copy, tmp_path):
    path = tmp_path / "stage2/selection/clusters.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a table of ours"):
        selection_page(copy)
