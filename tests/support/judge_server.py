"""A judge behind OpenAI's chat completions, on this machine: says what a test tells it to, and counts."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator


class JudgeServer:
    """
    What a judge was asked and how it answers; a test may change it at any time.

    Attributes:
        reply (`Callable`): the text of the last message -> what the judge says about it.
        asked (`list[str]`): those texts.
        answers_left (`int`): how many more are answered, before the server says 503.
        cut (`bool`): whether it goes away in the middle of an answer.
        address (`str`): of the server's `/v1`.
    """

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply, self.asked, self.answers_left, self.cut, self.address = reply, [], 1000, False, ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        given = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append(given["messages"][-1]["content"])
        self.answers_left -= 1
        if self.answers_left < 0:
            handler.send_error(503)
            return
        message = {"content": self.reply(self.asked[-1])}
        body = json.dumps({"model": "a judge", "choices": [{"message": message}]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if self.cut else body)


@contextlib.contextmanager
def judge_server(reply: Callable[[str], str]) -> Iterator[JudgeServer]:
    """A judge that answers as long as the block runs."""
    judge = JudgeServer(reply)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            judge.answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing is to be printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        judge.address = f"http://127.0.0.1:{running.server_port}/v1"
        yield judge
        running.shutdown()
