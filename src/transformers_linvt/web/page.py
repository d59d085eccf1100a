"""The page itself, of Gradio's parts: a player, a question, what came out, and the time line under the player."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..demo.clips import make_clip, write_clip
from ..demo.embedded import EMBEDDED_MODEL_KNOWS
from ..lazy import required
from .asking import Asking, Shown
from .settings import PageSettings
from .showing import moments_html, result_html


_FOLDER = Path(__file__).resolve().parent
_DEFAULT_FRAMES = 16
_MOST_FRAMES = 256  # that the slider offers; ours
_CLEANING = (3600, 86400)  # seconds: how often the files of the page are looked at, and how old they get
_EXAMPLE_FRAMES, _EXAMPLE_RATE = 32, 8
# kind of clip, what it shows, what is asked: as in `linvt demo`, the first seed of each kind
EXAMPLES = (
    ("scenes", "Four scenes"),
    ("needle", "One moment"),
    ("order", "First and last"),
    ("traverse", "A motion"),
)


class Page(NamedTuple):
    """The parts of Gradio, and what mounting them needs beside them."""

    blocks: Any
    css: str
    head: str
    theme: Any


def write_examples(folder: Path) -> list[tuple[str, Path, str]]:
    """Clips of coloured shapes that the page offers: their title, their file, and a question about each."""
    written = []
    for kind, title in EXAMPLES:
        frames, questions = make_clip(kind, seed=0, num_frames=_EXAMPLE_FRAMES)
        path = folder / f"{kind}.mp4"
        write_clip(path, frames, fps=_EXAMPLE_RATE)
        written.append((title, path, questions[0][0]))
    return written


def make_page(asking: Asking, settings: PageSettings, examples: list[tuple[str, Path, str]]) -> Page:
    """
    The page over one pipeline.

    Args:
        asking ([`Asking`]): what answers.
        settings ([`PageSettings`]): what is allowed.
        examples: of [`write_examples`].

    Raises:
        LinVTInputError: Gradio is not installed.
    """
    gr = required("gradio", "web")
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    start = getattr(asking.pipe.processor, "num_frames", None) or _DEFAULT_FRAMES
    most = max(start, min(_MOST_FRAMES, settings.limits.max_frames or _MOST_FRAMES))

    def ask(video: str | None, question: str, num_frames: float, compares: bool) -> Iterator[tuple[str, str]]:
        for shown in asking.ask(video, question, int(num_frames), compares):
            yield result_html(shown), moments_html(None if shown.result is None else shown.result["evidence"])

    with gr.Blocks(title="LinVT", analytics_enabled=False, delete_cache=_CLEANING) as blocks:
        gr.Markdown(_heading(settings), elem_id="lv-heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                video = gr.Video(label="Clip", sources=["upload"], elem_id="lv-clip", buttons=[], include_audio=True)
                moments = gr.HTML(elem_id="lv-moments")
                places = gr.Checkbox(
                    value=True, label="Show the places on the player", interactive=True, elem_id="lv-places"
                )
            with gr.Column(scale=2, min_width=320):
                taken = []
                if examples:
                    with gr.Group(), gr.Row():
                        taken = [
                            (gr.Button(title, size="sm", min_width=90), path, asked) for title, path, asked in examples
                        ]
                question = gr.Textbox(label="Question", max_length=2000, elem_id="lv-question")  # one line: Enter asks
                with gr.Row():
                    button = gr.Button("Ask", variant="primary", min_width=90, elem_id="lv-ask")
                    stop = gr.Button("Stop", min_width=90, elem_id="lv-stop")
                result = gr.HTML(value=result_html(Shown()), elem_id="lv-result")
                with gr.Accordion("How it is asked", open=False):
                    frames = gr.Slider(1, most, value=start, step=1, label="Frames to look at", elem_id="lv-frames")
                    compares = gr.Checkbox(
                        label="Ask the base alone as well, with the frames as pictures", elem_id="lv-compare"
                    )
        del places  # page.js alone looks at it
        for example, path, asked in taken:
            _fill_from(example, path, asked, (video, question, result, moments))
        inputs, outputs = [video, question, frames, compares], [result, moments]
        how = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
        asked_by = [
            button.click(ask, inputs, outputs, **how, api_visibility="private"),
            question.submit(ask, inputs, outputs, **how, api_visibility="private"),
        ]
        stop.click(None, None, None, cancels=asked_by)
        # what was said of another clip says nothing of this one
        video.input(lambda: (result_html(Shown()), ""), None, outputs, show_progress="hidden", queue=False,
                    api_visibility="private")  # fmt: skip
    blocks.queue(max_size=settings.max_waiting)
    css, script = ((_FOLDER / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    return Page(blocks, css, f"<script>{script}</script>", theme)


def _heading(settings: PageSettings) -> str:
    knows = f" {EMBEDDED_MODEL_KNOWS}" if settings.has_examples else ""
    return f"# Ask a clip\n{settings.name} answers, and shows which moments and places its answer depended on.{knows}"


def _fill_from(button: Any, path: Path, asked: str, parts: tuple[Any, Any, Any, Any]) -> None:
    """Let a button put a clip and a question into the page."""

    def take() -> tuple[str, str, str, str]:
        return str(path), asked, result_html(Shown()), ""

    button.click(take, None, list(parts), show_progress="hidden", queue=False, api_visibility="private")


__all__ = ["EXAMPLES", "Page", "make_page", "write_examples"]
