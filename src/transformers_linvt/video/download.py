"""Videos from the network: http and https only, within limits, and never to an address of the inside."""

import http.client
import ipaddress
import math
import socket
import ssl
import threading
import time
import urllib.parse
from contextlib import suppress

from ..errors import VideoReadError
from .limits import VideoLimits, shorten_name


_DOWNLOAD_CHUNK = 1 << 20
_MAX_REDIRECTS = 5
_USER_AGENT = "transformers-linvt"


def check_url_allowed(url: str, scheme: str, allow_urls: bool) -> None:
    """
    Refuse an address that is not http(s), or that nobody allowed.

    Raises:
        [`VideoReadError`]: with what to do instead.
    """
    if scheme not in ("http", "https"):
        raise VideoReadError(
            f"{_shown(url)}: addresses of the kind {shorten_name(scheme)}:// are not read, only http and https. "
            "Give a path, or download the file first."
        )
    if not allow_urls:
        raise VideoReadError(
            f"{_shown(url)} is an address on the network, and these are not opened unless allowed. Download it, or "
            "pass allow_urls=True if you trust where the address comes from."
        )


def _without_secrets(url: str) -> str:
    """The address without user, query and fragment, which often hold secrets and would end up in logs."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise VideoReadError(f"An address that begins with {url[:8]!r} is malformed: {error}. Check it.") from error
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _shown(url: str) -> str:
    """The address as messages show it: nothing secret, and not too long."""
    return shorten_name(_without_secrets(url))


def _is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, an IPv4 address wrapped into an IPv6 one included."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is None and ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return _is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _resolve(host: str, port: int, name: str, limits: VideoLimits) -> list[str]:
    """IP addresses of a host, all of them allowed; one that is not refuses the whole host."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise VideoReadError(f"{name}: its host was not found. Check the address.") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not limits.allow_private_addresses and not _is_public(address):
            raise VideoReadError(
                f"{name} leads to {address}, which is private, local or reserved, and such addresses are not "
                "opened. Download the file, or pass limits=VideoLimits(allow_private_addresses=True)."
            )
    return addresses


class _Download:
    """One download with an end: `max_download_seconds` for everything, redirects, headers and body together."""

    def __init__(self, name: str, limits: VideoLimits) -> None:
        self.name, self.limits = name, limits  # the name is the caller's: what a server says is never repeated
        self.seconds = limits.max_download_seconds
        self.deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds
        self.is_over = False
        self.socket: socket.socket | None = None

    def left(self) -> float | None:
        return None if self.deadline == math.inf else max(0.001, self.deadline - time.monotonic())

    def cut(self) -> None:
        """Called by a timer: a server that sends one byte now and then would never run into a socket's timeout."""
        self.is_over = True
        current = self.socket
        if current is not None:
            with suppress(OSError):
                current.shutdown(socket.SHUT_RDWR)

    def connect(self, url: str) -> http.client.HTTPConnection:
        """Connect to an address that was checked; the name is only sent along, so it cannot be resolved to another."""
        parts = urllib.parse.urlsplit(url)
        try:
            port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
        except ValueError:
            port = 0
        if port == 0:
            raise VideoReadError(f"{self.name}: its port is not a number from 1 to 65535.")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise VideoReadError(f"{self.name}: an address needs a host, and must not hold a user or password.")
        if not self.limits.allows_host(parts.scheme, parts.hostname):
            allowed = ", ".join(self.limits.allowed_hosts or ()) or "none"
            raise VideoReadError(
                f"{self.name} leads to a host that is not allowed; allowed are {shorten_name(allowed)}, with https. "
                "Put the file where it may be fetched from, or allow its host: VideoLimits(allowed_hosts=...)."
            )
        refused: OSError | None = None
        for address in _resolve(parts.hostname, port, self.name, self.limits):
            try:
                plain = socket.create_connection((address, port), timeout=self.left())
                self.socket = plain
                if parts.scheme == "https":
                    context = ssl.create_default_context()
                    try:
                        self.socket = context.wrap_socket(plain, server_hostname=parts.hostname)
                    except BaseException:
                        plain.close()
                        raise
                break
            except OSError as error:
                refused = error
        else:
            raise VideoReadError(f"{self.name}: no connection ({refused}). Check the address.") from refused
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=self.left())
        connection.default_port = 443 if parts.scheme == "https" else 80  # decides whether Host names the port
        connection.sock = self.socket
        return connection

    def save(self, response: http.client.HTTPResponse, path: str) -> None:
        """Write the body to `path`, never more of it than the limit, whatever length was announced."""
        limit = self.limits.max_bytes
        announced = response.length
        if limit is not None and announced is not None and announced > limit:
            raise VideoReadError(
                f"{self.name} announces {announced} bytes, over the limit of {limit}. Pass "
                "limits=VideoLimits(max_bytes=...) to allow it."
            )
        num_bytes = 0
        with open(path, "wb") as file:
            while chunk := response.read1(_DOWNLOAD_CHUNK):
                num_bytes += len(chunk)
                if limit is not None and num_bytes > limit:
                    raise VideoReadError(
                        f"{self.name} delivers more than the limit of {limit} bytes. Pass "
                        "limits=VideoLimits(max_bytes=...) to allow it."
                    )
                if time.monotonic() > self.deadline:
                    raise TimeoutError
                file.write(chunk)
        if self.is_over:  # the connection was cut by the timer, which looks like the end of a body of unknown length
            raise TimeoutError
        if announced is not None and num_bytes < announced:
            raise VideoReadError(f"{self.name} broke off after {num_bytes} of {announced} bytes. Try again.")

    def fetch(self, url: str, path: str) -> str | None:
        """Save what the address answers, or return the address it redirects to."""
        connection = self.connect(url)
        try:
            parts = urllib.parse.urlsplit(url)
            target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
            if parts.query:
                target += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
            headers = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                if response.status in (301, 302, 303, 307, 308):
                    location = response.getheader("Location")
                    if not location:
                        raise VideoReadError(f"{self.name} redirects without saying where to. Check the address.")
                    return urllib.parse.urljoin(url, location)
                if response.status != 200:
                    raise VideoReadError(
                        f"{self.name} answered {response.status} {http.client.responses.get(response.status, '')}. "
                        "Check that it can be opened without logging in."
                    )
                self.save(response, path)
            return None
        finally:
            connection.close()
            self.socket = None


def download_video(url: str, path: str, limits: VideoLimits) -> str:
    """
    Save a video from an http or https address to a file, within the limits on bytes, time and addresses.

    Redirects (5 at most) are followed by hand so that each stop is checked like the first. Proxy settings of the
    environment are not used: behind a proxy the address that is connected to could not be checked.

    Args:
        url (`str`): The address.
        path (`str`): File to write; overwritten.
        limits ([`VideoLimits`]): `max_bytes`, `max_download_seconds`, `allowed_hosts` and `allow_private_addresses`
            are looked at.

    Returns:
        `str`: The address first asked for, without user, query and fragment.

    Raises:
        [`VideoReadError`]: if the address may not be opened, does not answer with a file, or goes over a limit.
    """
    name = _shown(url)
    download = _Download(name, limits)
    timer = None
    if download.seconds is not None:
        timer = threading.Timer(download.seconds, download.cut)
        timer.daemon = True
        timer.start()
    try:
        address: str | None = url
        for _ in range(_MAX_REDIRECTS + 1):
            address = download.fetch(address, path)
            if address is None:
                return _without_secrets(url)
            download.name = f"{name}, where it redirects to"
            if not address.lower().startswith(("http://", "https://")):
                raise VideoReadError(
                    f"{name} redirects to an address that is neither http nor https. Check the address."
                )
        raise VideoReadError(f"{name} redirects more than {_MAX_REDIRECTS} times. Give the final address.")
    except VideoReadError as error:
        if download.is_over:
            raise VideoReadError(_too_slow(name, limits)) from error
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        if download.is_over or isinstance(error, TimeoutError):
            raise VideoReadError(_too_slow(name, limits)) from error
        # of http.client's errors only the kind: their text is the server's
        reason = str(error) if isinstance(error, OSError) and str(error) else type(error).__name__
        raise VideoReadError(f"{name} could not be downloaded: {reason}. Try again.") from error
    finally:
        if timer is not None:
            timer.cancel()


def _too_slow(name: str, limits: VideoLimits) -> str:
    return (
        f"{name} did not arrive within the limit of {limits.max_download_seconds} s. Download it first, or raise "
        "VideoLimits(max_download_seconds=...)."
    )
