"""
What every test stands on: no network, few threads, no deprecated use of transformers, and where the real clips are.

The environment is set before anything imports transformers or huggingface_hub, which read it once.
"""

import ipaddress
import logging
import os
import socket
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from transformers.utils import logging as transformers_logging


torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

VIDEOS_VARIABLE = "LINVT_TEST_VIDEOS"
# Files of transformers that use something deprecated themselves (5.23), whoever calls them.
DEPRECATED_INSIDE = (
    "image_processing_video_llava.py",
    "modeling_nemotron_h_omni.py",
    "molmo_stand_in.py",  # says `past_key_values`, as the published code does
)
# Said of what transformers does to itself, whoever calls it (5.23).
NOT_OURS = (
    "`generation_config` together with generation-related arguments=({'guidance_scale'})",  # Janus' generate()
    "`PaddleOCRVLProcessor` defines `image_processor_class",
)


class NetworkForbiddenError(RuntimeError):
    """A test reached for the network. No `OSError`, so that code which mends failed connections does not hide it."""


class DeprecatedUseError(AssertionError):
    """The package used something that transformers is about to drop."""


class RaiseOnDeprecation(logging.Handler):
    """
    Turns a deprecation that transformers only logs into an error, at the line that caused it.

    transformers announces much of what it drops through its logger and not through `warnings`, where pytest would see
    it. What was raised is kept as well: code between here and the test may catch every exception.
    """

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        inside = any(frame.filename.endswith(DEPRECATED_INSIDE) for frame in traceback.extract_stack())
        if "deprecat" in message.lower() and not inside and not any(words in message for words in NOT_OURS):
            self.seen.append(f"{record.name}: {message}")
            raise DeprecatedUseError(self.seen[-1])


deprecations = RaiseOnDeprecation()
# set here and not in a fixture: what a test module does while it is imported counts too
transformers_logging.get_logger("transformers").addHandler(deprecations)


def pytest_report_header() -> list[str]:
    """The two things outside the repository that decide what is run, and how fast."""
    videos = os.environ.get(VIDEOS_VARIABLE) or "not set, tests of real clips are skipped"
    return [f"torch threads: {torch.get_num_threads()}; {VIDEOS_VARIABLE}: {videos}"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """
    Skips a test that itself calls a method of transformers for which the newest PEFT is too old.

    transformers 5.24 asks for PEFT 0.22, which was not there yet. Where the package makes such a call, the test fails.
    """
    try:
        return (yield)
    except ValueError as error:
        if "version of PEFT you are using is not compatible" not in str(error):
            raise
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        caller = next(files[number - 1] for number, file in enumerate(files) if file.endswith("integrations/peft.py"))
        if Path(caller).is_relative_to(Path(__file__).parent):
            pytest.skip(f"transformers: {error}")
        raise


@pytest.fixture(autouse=True)
def no_deprecated_use() -> Iterator[None]:
    """Fails a test in which transformers logged a deprecation, also where the error was caught on its way."""
    yield
    seen = list(deprecations.seen)
    deprecations.seen.clear()
    if seen:
        raise DeprecatedUseError("; ".join(seen))


def _is_loopback(host: object) -> bool:
    if host in ("localhost", "", None):
        return True
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Only this machine can be reached: other addresses raise `NetworkForbiddenError`, other names do not resolve.

    Names fail the way they do without a network, with `socket.gaierror`: a test may rely on it.
    """
    true_connect, true_connect_ex, true_getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def refuse_others(own: socket.socket, address: object) -> None:
        internet = own.family in (socket.AF_INET, socket.AF_INET6)
        if internet and not (isinstance(address, tuple) and _is_loopback(address[0])):
            raise NetworkForbiddenError(f"A test that is not marked `network` tried to connect to {address!r}.")

    def connect(own: socket.socket, address: object) -> None:
        refuse_others(own, address)
        return true_connect(own, address)

    def connect_ex(own: socket.socket, address: object) -> int:
        refuse_others(own, address)
        return true_connect_ex(own, address)

    def getaddrinfo(host: object, *args: object, **kwargs: object) -> list:
        try:
            ipaddress.ip_address(str(host).partition("%")[0])  # an address needs no looking up
        except ValueError:
            if not _is_loopback(host):
                raise socket.gaierror(socket.EAI_NONAME, f"names are not looked up in tests: {host!r}") from None
        return true_getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _no_network_unless_marked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("network") is None:
        request.getfixturevalue("no_network")


@pytest.fixture(scope="session")
def videos_dir() -> Path:
    """The folder of real clips that `LINVT_TEST_VIDEOS` names; skips where it is unset, fails if it names none."""
    given = os.environ.get(VIDEOS_VARIABLE)
    if not given:
        pytest.skip(f"{VIDEOS_VARIABLE} is not set: set it to the folder of the real clips to run this test")
    folder = Path(given).resolve()
    if not folder.is_dir():
        pytest.fail(f"{VIDEOS_VARIABLE}={given} is not a folder: correct it, or unset it to skip tests of real clips")
    return folder
