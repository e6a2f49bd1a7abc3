"""The page in a real browser: a real voice through a microphone, files, the answer, the keyboard, the door."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from salad_ds.audio import decode
from salad_ds.serve.limits import Limits
from tests.browser import FLAGS, NAMES
from tests.serve.conftest import Site, running, wav

pytestmark = [pytest.mark.assets, pytest.mark.browser]
TOKEN = "correct horse battery"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
expect.set_options(timeout=60_000)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium(human, tmp_path_factory) -> Iterator[Browser]:
    """Chromium with somebody at its microphone who says what ``human`` says, once."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium (Debian: make system)")
    voice = tmp_path_factory.mktemp("voice") / "said.wav"
    voice.write_bytes(human[0])
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                  f"--use-file-for-fake-audio-capture={voice}%noloop"]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS, *microphone])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium) -> Iterator[Open]:
    """``visit(site, path="", width=1280, dark=False, faults=0)`` → the open page. A test fails where it asks for
    anything outside, or where the console has other than ``faults`` errors (a refused request is one)."""
    opened: list[tuple[Page, list[str], int]] = []

    def page_of(site: Site, path: str = "", width: int = 1280, dark: bool = False, faults: int = 0) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce",
                                       color_scheme="dark" if dark else "light")  # fmt: skip
        page, seen = context.new_page(), []
        page.on("console", lambda message: message.type in ("error", "warning") and seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: request.url.startswith((site.address, "blob:")) or seen.append(request.url))
        page.goto(site.address + path)
        opened.append((page, seen, faults))
        return page

    yield page_of
    for page, seen, faults in opened:
        page.context.close()
        assert len(seen) == faults, seen


def bring(page: Page, data: bytes, name: str = "said.wav") -> None:
    expect(page.get_by_role("button", name="Record")).to_be_visible()
    page.locator("#file").set_input_files({"name": name, "mimeType": "audio/wav", "buffer": data})


def answer(page: Page, transcript: str = "", tokens: int = 6) -> None:
    """Ask, and wait until all is said."""
    page.get_by_label("What is said in the clip").fill(transcript)
    page.get_by_label("Longest answer, tokens").fill(str(tokens))
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_role("status")).to_contain_text("Done")


@pytest.fixture
def answered(visit, site, human) -> Callable[..., Page]:
    """A page with an answer on it."""

    def made(**how) -> Page:
        page = visit(site, **how)
        bring(page, human[0])
        expect(page.get_by_role("status")).to_contain_text("The clip is here, 3.0 seconds")
        answer(page, human[1])
        return page

    return made


def test_speak_and_be_answered(visit, site, human, served, monkeypatch):
    """What the microphone heard arrives: the recogniser understands it."""
    clips = []
    ask = served.answer
    monkeypatch.setattr(served, "answer", lambda *given: (clips.append(given), ask(*given))[1])
    page, words = visit(site), ""
    for _ in range(4):  # the browser's microphone is in real time: on a busy machine it drops some
        page.get_by_role("button", name="Record").click()
        stop = page.get_by_role("button", name="Stop")
        expect(stop).to_be_visible()
        long_enough = re.compile(r"^(3\.[2-9]|[4-9]\.\d|[12]\d\.\d) of at most 30 s")
        expect(page.locator("#record-told")).to_contain_text(long_enough)
        stop.click()
        expect(page.get_by_role("status")).to_contain_text("The clip is here")
        assert page.locator("#player").evaluate("(sound) => sound.src").startswith("blob:")
        page.get_by_role("button", name="Let a recogniser propose it").click()
        expect(page.get_by_role("status")).to_contain_text("A transcript is proposed")
        words = page.get_by_label("What is said in the clip").input_value()
        if sum(word in words.lower() for word in human[1].split()) >= 5:
            break
    else:
        pytest.fail(f"it heard: {words}")
    expect(page.locator("#transcript-told")).to_contain_text("Proposed by packaged:whisper-tiny.en, which may mishear")
    answer(page, words, tokens=3)
    ((clip, question),) = clips
    assert question.transcript == words and clip.rate in (44100, 48000) and 2.9 < clip.seconds < 31
    assert page.locator(".token").count() == 3


def test_the_page_shows_what_the_models_said(answered, site, human):
    page = answered()
    lines = site.ask("POST", "/api/answers", {"clip": site.clip(human[0]), "transcript": human[1], "tokens": 6}).lines
    steps, end = [line for line in lines if line["event"] == "step"], next(x for x in lines if x["event"] == "end")
    assert page.locator(".token").count() == 6
    assert page.locator(".tiles .value").first.inner_text() == f"{end['kl']['read']:.3f}"
    assert page.locator(".tiles .value").nth(1).inner_text() == f"{end['same']['read']} of 6"
    own = {line["voice"]: line["text"] for line in lines if line["event"] == "own"}
    for name, text in (("heard", steps[-1]["text"]), ("read", own["read"]), ("base", own["base"])):
        shown = page.locator(f".voice.{name} blockquote").evaluate("(quote) => quote.lastChild.textContent")
        assert shown == text
    for index in (0, 4):
        page.locator(".token").nth(index).click()
        voices = steps[index]["voices"]
        for name in ("heard", "read", "base"):
            rows = page.locator(f".voice.{name} .chances li")
            assert rows.count() == 8
            assert rows.locator(".word").all_text_contents()[0].strip("·⏎ ") == voices[name]["top"][0][0].strip()
            chance = float(rows.locator(".chance").first.inner_text().removesuffix(" %")) / 100
            assert chance == pytest.approx(voices[name]["top"][0][1], abs=6e-4)
        widths = [page.locator(f".voice.{name} .own").first.evaluate("(bar) => bar.getBoundingClientRect().width / "
                  "bar.parentElement.getBoundingClientRect().width") for name in ("heard", "read")]  # fmt: skip
        ratio = voices["heard"]["top"][0][1] / voices["read"]["top"][0][1]
        assert widths[0] / widths[1] == pytest.approx(ratio, rel=0.05), "one scale for all columns"
        assert page.locator(".voice.read .figure").inner_text().startswith(f"KL {voices['read']['kl']:.2f}")
    height = "(bars) => bars.map((bar) => bar.getBoundingClientRect().height)"
    heights = page.locator(".token .bar").evaluate_all(height)
    kls = [step["voices"]["read"]["kl"] for step in steps]
    full = 3.4 * 16 / max(1, *kls)
    assert heights == pytest.approx([max(2, kl * full) for kl in kls], abs=0.6), "a bar is as high as its KL"
    page.get_by_text("Every token as a table").click()
    assert page.locator("#steps-body tr").count() == 6
    assert f"{kls[2]:.3f}" in page.locator("#steps-body tr").nth(2).inner_text()


def test_without_a_transcript_there_is_an_answer_and_no_gap(visit, site, human):
    page = visit(site)
    bring(page, human[0])
    answer(page, "", tokens=2)
    expect(page.locator("#gap-told")).to_contain_text("nothing to compare the answer with")
    assert page.locator(".voice").count() == 1 and page.locator(".token").count() == 2
    assert page.locator("#scale").is_hidden() and "KL" not in page.locator("#tiles").inner_text()
    assert page.locator(".token .bar").first.evaluate("(bar) => bar.getBoundingClientRect().height") == 2


def test_a_bad_file_is_an_error_beside_it_and_the_next_file_is_taken(visit, site, human):
    page = visit(site, faults=2)  # the browser notes each refusal in its console
    bring(page, b"this is no sound", "x.wav")
    error = page.get_by_role("alert")
    expect(error).to_contain_text("This is not audio that can be read. Give WAV, FLAC, MP3")
    expect(page.locator("#clip").get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Answer")).to_be_disabled()
    bring(page, human[0][:20_000])
    expect(error).to_contain_text("breaks off in the middle")
    bring(page, human[0])
    expect(page.get_by_role("button", name="Answer")).to_be_enabled()
    assert error.inner_text() == ""


def test_what_only_the_browser_can_decode_is_heard_too(visit, site, human, monkeypatch):
    """A recording in WebM, made by the browser itself: libsndfile does not read it."""
    page = visit(site, faults=1)
    page.evaluate("""async () => {
        const context = new AudioContext(), sound = context.createMediaStreamDestination();
        const tone = context.createOscillator();
        tone.connect(sound); tone.start();
        const recorder = new MediaRecorder(sound.stream, { mimeType: "audio/webm;codecs=opus" }), parts = [];
        recorder.ondataavailable = ({ data }) => parts.push(data);
        recorder.start();
        await new Promise((done) => setTimeout(done, 700));
        await new Promise((done) => { recorder.onstop = done; recorder.stop(); });
        const given = new DataTransfer(), input = document.getElementById("file");
        given.items.add(new File(parts, "said.webm", { type: "audio/webm" }));
        input.files = given.files;
        input.dispatchEvent(new Event("change"));
    }""")
    expect(page.locator("#clip-facts")).to_contain_text(re.compile(r"^(0\.[1-9]|[1-9]\d?\.\d) s at 48,000 Hz"))
    expect(page.get_by_role("button", name="Answer")).to_be_enabled()


def test_limits_hold_in_the_page_too(visit, served, human):
    with running(served, Limits(seconds=1.0, bytes=200_000, tokens=9)) as small:
        page = visit(small, faults=1)
        bring(page, human[0])
        expect(page.get_by_role("alert")).to_contain_text("3.0 s long; at most 1 s")
        bring(page, bytes(300_000))
        expect(page.get_by_role("alert")).to_contain_text("larger than")
        assert page.get_by_label("Longest answer, tokens").get_attribute("max") == "9"
        page.get_by_role("button", name="Record").click()  # ends by itself at the limit
        expect(page.get_by_role("status")).to_contain_text(re.compile("The clip is here, (0.9|1.0) seconds"))


def test_stop_stops(visit, site, human, served, monkeypatch):
    ended = []
    ask = served.answer

    def endless(clip, question):
        events = list(ask(clip, question))
        try:
            yield events[0]
            while True:
                yield events[1]
                time.sleep(0.05)
        finally:
            ended.append(True)

    monkeypatch.setattr(served, "answer", endless)
    page = visit(site)
    bring(page, human[0])
    page.get_by_role("button", name="Answer").click()
    expect(page.locator(".token").nth(3)).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Answer")).to_be_enabled()
    monkeypatch.setattr(served, "answer", ask)
    answer(page, tokens=2)
    assert ended == [True], "the server went on with nothing"


def test_the_keyboard_does_everything(visit, site, human):
    page = visit(site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = []
    bring(page, human[0])
    expect(page.get_by_role("button", name="Answer")).to_be_enabled()
    for _ in range(16):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.name")
        if name not in reached:
            reached.append(name)
        if name == "answer-button":
            break
    assert [name for name in reached if name != "player"] == [
        "record", "file", "propose", "transcript", "text", "tokens", "manner", "answer-button"]  # fmt: skip
    page.locator("#transcript").fill(human[1])
    page.locator("#tokens").fill("5")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Done")
    selected = page.locator('.token[aria-selected="true"]')
    assert selected.get_attribute("data-index") == "4", "it has followed the end"
    selected.focus()
    for key, index in (("ArrowLeft", 3), ("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("End", 4), ("ArrowUp", 3)):
        page.keyboard.press(key)
        assert page.evaluate("Number(document.activeElement.dataset.index)") == index
        expect(page.locator("#step-told")).to_contain_text(f"Before token {index + 1},")
    assert page.locator(".token[tabindex='0']").count() == 1, "one stop for Tab"


def test_names_for_those_who_do_not_see(answered):
    page = answered()
    names = page.locator(".token").evaluate_all("(all) => all.map((token) => token.getAttribute('aria-label'))")
    told = re.compile(r"^\d: .+, heard .+ %, read .+ %, KL \d+\.\d\d nats$")
    assert len(names) == 6 and all(map(told.search, names))
    answer = page.get_by_role("listbox", name="The answer, token by token")
    assert answer.get_by_role("option", selected=True).count() == 1
    assert page.locator("audio").get_attribute("aria-label") == "The clip"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].filter((head) => head.checkVisibility())"
                           ".map((head) => Number(head.tagName[1]))")  # fmt: skip
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(visit, answered, site, dark):
    """Every rule of WCAG 2.2 A and AA that axe knows, and its best practices: before, after, and with an error."""
    for page in (visit(site, dark=dark), answered(dark=dark, faults=1)):
        if page.locator(".token").count():
            page.get_by_text("Every token as a table").click()
            page.locator(".token").nth(2).click()
            bring(page, b"no sound")
            expect(page.get_by_role("alert")).to_contain_text("not audio")
        found = Axe().run(page, options={"resultTypes": ["violations"], "runOnly": RULES}).response["violations"]
        assert not found, [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in found]


def test_from_a_telephone_to_a_wide_screen(answered):
    page = answered()
    page.get_by_text("Every token as a table").click()
    for width in (380, 640, 800, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [page.locator(f".voice.{name}").bounding_box() for name in ("heard", "read")]
        beside = boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
        assert beside == (width > 600), "heard and read side by side where there is room"


def test_light_and_dark_are_two_pages(visit, site):
    means = []
    for dark in (False, True):
        pixels = np.asarray(Image.open(io.BytesIO(visit(site, dark=dark).screenshot())).convert("L"), float)
        assert pixels.std() > 10
        means.append(pixels.mean())
    assert means[0] > 200 and means[1] < 60


def test_hostile_words_stay_words(visit, site, human, served, monkeypatch):
    evil = '</script><img src=x onerror="alert(1)"><b>'
    monkeypatch.setattr(served, "words", lambda clip: evil)
    page = visit(site)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    bring(page, human[0])
    page.get_by_role("button", name="Let a recogniser propose it").click()
    expect(page.get_by_role("status")).to_contain_text("proposed")
    assert page.get_by_label("What is said in the clip").input_value() == evil
    monkeypatch.setattr(served.pieces, "piece", lambda token: evil)
    monkeypatch.setattr(served.pieces, "so_far", lambda tokens: evil)
    answer(page, evil, tokens=2)
    assert page.locator("img, .token b").count() == 0 and page.locator(".token").first.inner_text().strip() == evil


def test_the_door(visit, served, human):
    with running(served, local=True, token=TOKEN) as locked:
        page = visit(locked, faults=2)  # the first request and the wrong token are refused
        expect(page.get_by_role("heading", name="A token, please")).to_be_visible()
        assert page.locator("#room").is_hidden()
        found = Axe().run(page, options={"resultTypes": ["violations"], "runOnly": RULES}).response["violations"]
        assert not found, [one["id"] for one in found]
        page.get_by_label("Token", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This is not the token")
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.get_by_role("button", name="Enter").click()
        expect(page.get_by_role("button", name="Record")).to_be_visible()
        page.reload()
        expect(page.get_by_role("button", name="Record")).to_be_visible()  # the cookie stands for it
        bring(page, human[0])
        answer(page, tokens=2)
        linked = visit(locked, "#token=correct%20horse%20battery")
        expect(linked.get_by_role("button", name="Record")).to_be_visible()
        assert "token" not in linked.url, "it does not stay in the address"


def test_a_server_that_is_gone_is_said(visit, served, human):
    with running(served) as brief:
        page = visit(brief, faults=1)
        bring(page, human[0])
        expect(page.get_by_role("button", name="Answer")).to_be_enabled()
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.get_by_role("button", name="Answer")).to_be_enabled()


def test_sound_of_the_browser_is_the_sound_that_was_recorded(visit, site, human):
    """The WAV that the page makes of samples holds these samples."""
    page = visit(site)
    made = page.evaluate("""async () => {
        const { wav } = await import("./sound.js");
        const samples = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i / 7) * 1.5);
        return [...new Uint8Array(await wav(samples, 44100).arrayBuffer())];
    }""")
    wave, rate = decode(bytes(made))
    expected = np.clip(np.sin(np.arange(1000) / 7) * 1.5, -1, 1)
    assert rate == 44100 and np.abs(wave - expected).max() < 1e-4
    assert bytes(made)[:44] == wav(expected, 44100)[:44]
