"""What the page shows, as HTML: answers with their cost, the time line under the player, maps to lay over it."""

import base64
import io
import json
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ..evidence.evidence import VideoEvidence
from .asking import Shown


_OVERLAY = (227, 26, 28)  # red, as strong places are drawn in pictures of evidence
_STRONGEST = 130  # of 255, opacity of the strongest place: what is below keeps its colour
_SHOWN_SECONDS = 0.001  # behind the time of a frame, so that players show that frame and not the one before it


def result_html(shown: Shown) -> str:
    """The answer, that of the base alone, what they cost, and what is done now or went wrong."""
    parts = []
    if shown.answer or shown.result is not None:
        cost = "" if shown.result is None else _cost(shown.result)
        words = shown.answer or ("The answer is empty." if shown.result is not None else "")
        parts.append(_answer("With LinVT" if shown.alone_answer or shown.alone else "Answer", words, cost))
    if shown.alone_answer or shown.alone is not None:
        parts.append(_answer("The base alone", shown.alone_answer, _cost_alone(shown)))
    if shown.error:
        parts.append(f'<p class="lv-error" role="alert">{escape(shown.error)}</p>')
    stage = f'<p class="lv-stage">{escape(shown.stage)}</p>' if shown.stage else ""
    return f'<div class="lv-results" role="status" aria-live="polite">{"".join(parts)}{stage}</div>'


def _answer(title: str, text: str, cost: str) -> str:
    told = f'<p class="lv-cost">{escape(cost)}</p>' if cost else ""
    return f'<div class="lv-answer"><h3>{escape(title)}</h3><p class="lv-text">{escape(text)}</p>{told}</div>'


def _cost(result: dict[str, Any]) -> str:
    before, after = result["frame_tokens"], result["video_tokens"]
    frames, share = result["frames_seen"], after / max(before, 1)
    got = f"The language model got {after:,} video tokens ({share:.0%})."
    return f"{frames} frames, {before:,} tokens of the base. {got}"


def _cost_alone(shown: Shown) -> str:
    if shown.alone is None:
        return ""
    reply = shown.alone
    several = "all" if reply.num_pictures == reply.num_frames else "as many as its context holds,"
    return (
        f"{several.capitalize()} {reply.num_pictures} of {reply.num_frames} frames as pictures, "
        f"{reply.visual_tokens:,} visual tokens, without LinVT and without its adapter."
    )


def moments_html(evidence: VideoEvidence | None) -> str:
    """The time line of an answer: a bar per frame, a button per moment; and the maps of all frames for the overlay."""
    if evidence is None:
        return ""
    if np.isnan(evidence.timestamps).any():
        return '<p class="lv-note">The times of the frames are not known, so no moment can be shown.</p>'
    owed_to = evidence.frame_attribution
    is_owed = owed_to is not None
    values = np.maximum(evidence.frame_weights if owed_to is None else owed_to, 0.0)
    times = evidence.timestamps
    ends = np.append(times[1:], times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1.0))
    begin, length = float(times[0]), float(ends[-1] - times[0]) or 1.0
    bars = "".join(
        f'<i style="left:{100 * (time - begin) / length:.3f}%;width:{100 * (end - time) / length:.3f}%" '
        f'data-seek="{time + _SHOWN_SECONDS:.4f}" title="{_told(time, value, is_owed)}">'
        f'<b style="height:{100 * value / max(values.max(), 1e-12):.1f}%"></b></i>'
        for time, end, value in zip(times, ends, values, strict=True)
    )
    buttons = "".join(
        f'<li><button type="button" data-seek="{one.seconds + _SHOWN_SECONDS:.4f}">'
        f"{one.start:.1f} to {one.end:.1f} s <span>{one.share:.0%}</span></button></li>"
        for one in evidence.moments(4)
    )
    owed = "what the answer owes to each frame" if is_owed else "how much of the video tokens comes from each frame"
    why = f" {evidence.no_attribution}" if evidence.no_attribution else ""
    heading = "Moments that the answer depended on" if is_owed else "Where the video tokens came from"
    nothing = "" if buttons else '<p class="lv-note">No moment speaks for this answer.</p>'
    return (
        f'<section class="lv-moments" aria-label="{heading}"><h3>{heading}</h3>'
        f'<div class="lv-line" aria-hidden="true">{bars}</div>'
        f'<div class="lv-axis" aria-hidden="true"><span>{begin:.1f} s</span><span>{begin + length:.1f} s</span></div>'
        f'<ol>{buttons}</ol>{nothing}<p class="lv-note">Bars: {owed}. Select one to go there.{escape(why)}</p>'
        f"<div class=\"lv-maps\" hidden data-maps='{_maps(evidence)}'></div></section>"
    )


def _told(time: float, value: float, is_owed: bool) -> str:
    return f"{time:.2f} s: {value:.3f} nats" if is_owed else f"{time:.2f} s: {value:.1%}"


def _maps(evidence: VideoEvidence) -> str:
    """JSON of the times of the frames, the part of a frame that maps cover, and a picture per frame."""
    owed = evidence.place_attribution
    places = np.maximum(evidence.place_weights if owed is None else owed, 0.0)
    top, left, bottom, right = (float(edge) for edge in evidence.region)
    strength = np.sqrt(places / max(float(places.max()), 1e-12))  # the eye sees steps of light, not shares
    made = {
        "times": [round(float(time), 4) for time in evidence.timestamps],
        "region": [top, left, bottom, right],
        "maps": [_picture(one) for one in strength],
    }
    return escape(json.dumps(made), quote=True)


def _picture(strength: np.ndarray) -> str:
    """Rows and columns in [0, 1] as the address of a picture with as many pixels, red and more or less clear."""
    pixels = np.empty((*strength.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _OVERLAY
    pixels[..., 3] = np.rint(_STRONGEST * strength)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


__all__ = ["moments_html", "result_html"]
