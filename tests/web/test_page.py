"""
`linvt web` as who opens it sees it, in headless Chromium (`make test-web`): a clip is dropped, asked about, its
moments are gone to, the places lie over the player; what cannot be read, is too large, or names an address is said in
words.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from transformers_linvt import embedded_model_path
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.serving.watching import Watcher
from transformers_linvt.web.running import run_page
from transformers_linvt.web.settings import PageSettings


# Gradio's own, with the newest pandas
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
playwright = pytest.importorskip("playwright.sync_api")
httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio")

QUESTION = "Is there a red circle?"
CHROMIUM = os.environ.get("LINVT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return pipeline("video-question-answering", model=embedded_model_path(), device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "needle.mp4", make_clip("needle", 3, 24)[0])
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n")
    (folder / "large.mp4").write_bytes(bytes(3 << 20))
    return folder


@contextmanager
def shown(pipe: Any, **settings: Any) -> Iterator[str]:
    """The address of a page in a thread, stopped as a signal would stop it."""
    started, found = threading.Event(), []

    def ready(*told: Any) -> None:
        found.extend(told)
        started.set()

    settings = PageSettings("shapes", **{"has_examples": True, "max_file_bytes": 2 << 20, **settings})
    thread = threading.Thread(target=run_page, args=(lambda: pipe, settings, "127.0.0.1", 0, ready))
    thread.start()
    assert started.wait(120)
    yield found[0]
    found[1]()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(pipe: Any) -> Iterator[str]:
    with shown(pipe) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide and light", "narrow and dark"])
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page at each width, which asks nothing of any other host."""
    width, scheme = request.param
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        opened, elsewhere = context.new_page(), []
        opened.on("request", lambda one: elsewhere.append(one.url) if one.url.startswith("http") else None)
        opened.goto(address)
        opened.wait_for_selector("#lv-ask", timeout=60_000)
        yield opened
        assert [url for url in elsewhere if not url.startswith(address)] == []
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it does not fit its width"


def drop(page: Any, path: Path) -> None:
    page.set_input_files("#lv-clip input[type=file]", str(path))


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def second(page: Any) -> float:
    return page.evaluate("document.querySelector('#lv-clip video').currentTime")


def test_a_clip_is_dropped_asked_about_and_its_moment_gone_to(page: Any, pipe: Any, clips: Path):
    drop(page, clips / "needle.mp4")
    page.wait_for_selector("#lv-clip video")
    page.fill("#lv-question textarea", QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector(".lv-moments button")
    (expected,) = pipe(video=str(clips / "needle.mp4"), question=QUESTION, return_evidence=True)
    told = page.inner_text("#lv-result")
    assert expected["answer"] in told
    assert (
        f"{expected['frame_tokens']} tokens of the base" in told
        and f"got {expected['video_tokens']} video tokens" in told
    )
    moment = expected["evidence"].moments()[0]
    page.locator(".lv-moments button").first.click()
    wait_until(lambda: abs(second(page) - moment.seconds) < 0.05)
    # the places lie where the player shows its picture, and go when they are not wanted
    page.wait_for_selector("#lv-overlay", state="visible")
    over, player = (page.locator(one).bounding_box() for one in ("#lv-overlay", "#lv-clip video"))
    assert over["width"] > 100 and player["x"] - 1 <= over["x"] <= player["x"] + player["width"]
    page.get_by_label("Show the places on the player").uncheck()
    page.wait_for_selector("#lv-overlay", state="hidden")
    # a bar of the line is gone to as well
    page.locator(".lv-line i").nth(2).click()
    wait_until(lambda: abs(second(page) - expected["evidence"].timestamps[2]) < 0.05)


def test_it_is_used_by_keyboard_alone_and_compares_with_the_base(page: Any):
    def go_to(target: Any) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if target.evaluate("one => one === document.activeElement"):
                return
        raise AssertionError(f"{target} is not reached by the tab key")

    go_to(page.get_by_role("button", name="Four scenes"))
    page.keyboard.press("Enter")
    page.wait_for_selector("#lv-clip video")
    go_to(page.get_by_role("button", name="How it is asked"))
    page.keyboard.press("Enter")
    go_to(page.get_by_label("Ask the base alone"))
    page.keyboard.press("Space")
    go_to(page.locator("#lv-question textarea"))
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.lv-cost').length == 2", timeout=60_000)
    assert "The base alone" in page.inner_text("#lv-result")
    assert "without LinVT" in page.inner_text("#lv-result")
    go_to(page.locator(".lv-moments button").first)
    page.keyboard.press("Enter")
    wait_until(lambda: second(page) > 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("playlist.mp4", "playlist.mp4 cannot be read: it is a play list"),
        (None, "There is no clip yet"),
    ],
)
def test_what_cannot_be_answered_is_said_in_words(page: Any, clips: Path, name: str | None, words: str):
    if name is not None:
        drop(page, clips / name)
        page.wait_for_selector("#lv-clip video")
    page.fill("#lv-question textarea", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".lv-error")
    told = page.inner_text(".lv-error")
    assert words in told and str(clips) not in told and "gradio" not in told


def test_a_clip_that_is_too_large_is_refused_while_it_is_sent(page: Any, clips: Path):
    drop(page, clips / "large.mp4")
    page.wait_for_selector("text=/size/i")
    assert page.locator("#lv-clip video").count() == 0


def test_another_clip_takes_away_what_was_said_of_the_last(page: Any, clips: Path):
    page.get_by_role("button", name="One moment").click()
    page.wait_for_selector("#lv-clip video")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector(".lv-moments button")
    page.get_by_role("button", name="A motion").click()
    page.wait_for_selector(".lv-moments button", state="detached")
    assert page.inner_text("#lv-result").strip() == ""


def event(address: str, file: Any) -> Any:
    """What the page sends for a question, with a file of somebody's own choice."""
    file = file if isinstance(file, str) else {"meta": {"_type": "gradio.FileData"}, **file}
    functions = httpx.get(f"{address}/config", timeout=30).json()["dependencies"]
    (index, *_) = [one["id"] for one in functions if len(one["inputs"]) == 4]
    body = {"data": [file, QUESTION, 4, False], "fn_index": index, "session_hash": "a"}
    joined = httpx.post(f"{address}/gradio_api/queue/join", json=body, timeout=30)
    if joined.status_code != 200:
        return joined.text
    told = []
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash=a", timeout=30) as lines:
        for line in lines.iter_lines():
            told.append(line)
            if "process_completed" in line:
                break
    return "\n".join(told)


def test_nothing_is_opened_that_was_not_uploaded(address: str, clips: Path):
    assert "Addresses are not opened here" in event(address, {"path": "http://127.0.0.1:9/clip.mp4"})
    assert "Addresses are not opened here" in event(address, {"path": "file:///etc/passwd"})
    for outside in (clips / "needle.mp4", Path("/etc/passwd")):
        assert f"'{outside.name}' was not uploaded here" in event(address, {"path": str(outside)})
        assert "lv-text" not in event(address, str(outside))
        assert httpx.get(f"{address}/gradio_api/file={outside}", timeout=30).status_code in (403, 404)


def test_a_page_that_is_closed_ends_its_answer(browser: Any, address: str, pipe: Any, monkeypatch: pytest.MonkeyPatch):
    """256 tokens at a twentieth of a second would take thirteen seconds."""
    watchers, real = [], Watcher.put

    def slow(self: Watcher, value: Any) -> None:
        watchers.append(self)
        time.sleep(0.05)
        real(self, value)

    monkeypatch.setattr(Watcher, "put", slow)
    monkeypatch.setattr(pipe.model.generation_config, "eos_token_id", 284)  # a word that is never said
    opened = browser.new_page()
    opened.goto(address)
    opened.get_by_role("button", name="One moment").click()
    opened.wait_for_selector("#lv-clip video")
    opened.get_by_role("button", name="Ask", exact=True).click()
    wait_until(lambda: len(watchers) > 3)
    opened.close()
    wait_until(lambda: watchers[0].is_cancelled, seconds=5)
    wait_until(lambda: len(watchers) < 250)
