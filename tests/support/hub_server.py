"""
A small Hub on the loopback: enough of the Hub's HTTP interface for the real client to create, upload and download.

Commits are kept whole in memory (path -> bytes); large files go through git-LFS's batch interface as with the Hub when
Xet is switched off. Every request is noted in `requests`, every byte that reached the LFS store in `uploaded`.
"""

import base64
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import transformers.utils.hub


TOKEN = "hf_right"
USER = "tester"


class Repository:
    """Branches, each a list of commits; a commit is its id and its files."""

    def __init__(self) -> None:
        self.branches: dict[str, list[str]] = {"main": []}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, str] = {}  # path -> oid, of files that went through LFS
        self.commit_to("main", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit_to(self, branch: str, changes: dict[str, bytes]) -> str:
        """Add a commit and return its id."""
        history = self.branches[branch]
        files = {**(self.commits[history[-1]] if history else {}), **changes}
        commit = hashlib.sha1(f"{branch}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[commit] = files
        history.append(commit)
        return commit

    def find(self, revision: str) -> str | None:
        """The commit a branch or a commit id stands for."""
        revision = urllib.parse.unquote(revision)
        if revision in self.branches:
            return self.branches[revision][-1]
        return revision if revision in self.commits else None


class HubServer:
    """
    The server, its state and what it was asked.

    Attributes:
        repositories (`dict[str, Repository]`).
        requests (`list[str]`): `"METHOD path"` of every request.
        uploaded (`list[tuple[str, int]]`): oid and size of every object that the LFS store received whole.
        refuse_put (`int`): so many uploads into the LFS store are accepted, then the connection is cut; None: all.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.uploaded: list[tuple[str, int]] = []
        self.refuse_put: int | None = None
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository."""
        repository = self.repositories[repo_id]
        return repository.commits[repository.find(revision)]

    def writes(self) -> list[str]:
        """The requests that would have changed something."""
        return [line for line in self.requests if not line.startswith(("GET", "HEAD"))]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    # -- answers --

    def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str | None, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        if commit:
            headers["X-Repo-Commit"] = commit
        self.answer(status, {"error": message}, headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # -- requests --

    def handle_one(self, find: Callable[[list[str]], None]) -> None:
        path = urllib.parse.urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        find([part for part in path.split("/") if part])

    def do_GET(self) -> None:
        self.handle_one(self.get)

    def do_HEAD(self) -> None:
        self.handle_one(self.get)

    def do_POST(self) -> None:
        self.handle_one(self.post)

    def do_PUT(self) -> None:
        self.handle_one(self.put)

    def is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.refuse(401, None, "Invalid credentials in Authorization header")
        return False

    def repository(self, parts: list[str]) -> Repository | None:
        found = self.hub.repositories.get("/".join(parts))
        if found is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        return found

    def get(self, parts: list[str]) -> None:
        match parts:
            case ["api", "whoami-v2"]:
                if self.is_allowed():
                    self.answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})
            case ["api", "models", owner, name, *rest]:
                self.get_information([owner, name], rest)
            case [owner, name, "resolve", revision, *path]:
                self.get_file([owner, name], revision, "/".join(path))
            case _:
                self.refuse(404, None, f"unknown address {self.path}")

    def get_information(self, where: list[str], rest: list[str]) -> None:
        if (repository := self.repository(where)) is None:
            return
        revision = rest[1] if len(rest) > 1 else "main"
        if (commit := repository.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
                if path.startswith("/".join(rest[2:]))
            ]
            return self.answer(200, tree)
        name = "/".join(where)
        siblings = [{"rfilename": path} for path in files]
        self.answer(
            200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        )

    def get_file(self, where: list[str], revision: str, path: str) -> None:
        if (repository := self.repository(where)) is None:
            return
        if (commit := repository.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        path = urllib.parse.unquote(path)
        if (data := repository.commits[commit].get(path)) is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", commit)
        etag = hashlib.sha256(data).hexdigest()
        self.answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "none"})

    def post(self, parts: list[str]) -> None:
        body = self.body()
        if not self.is_allowed():
            return
        match parts:
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                self.create(f"{wanted.get('organization') or USER}/{wanted['name']}")
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                self.preupload(f"{owner}/{name}", json.loads(body)["files"])
            case ["api", "models", owner, name, "branch", branch]:
                self.branch(f"{owner}/{name}", urllib.parse.unquote(branch))
            case ["api", "models", owner, name, "commit", branch]:
                self.commit(f"{owner}/{name}", urllib.parse.unquote(branch), body)
            case [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self.lfs_batch(json.loads(body)["objects"])
            case _:
                self.refuse(404, None, f"unknown address {self.path}")

    def create(self, repo_id: str) -> None:
        if not repo_id.startswith(f"{USER}/"):
            return self.refuse(403, None, f"You don't have the rights to create a model under {repo_id.split('/')[0]}")
        is_new = repo_id not in self.hub.repositories
        self.hub.repositories.setdefault(repo_id, Repository())
        self.answer(200 if is_new else 409, {"url": f"{self.hub.url}/{repo_id}", "name": repo_id})

    def preupload(self, repo_id: str, files: list[dict[str, Any]]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        self.answer(200, {"files": modes})

    def branch(self, repo_id: str, branch: str) -> None:
        repository = self.hub.repositories[repo_id]
        if branch in repository.branches:
            return self.refuse(409, None, "Reference already exists")
        repository.branches[branch] = list(repository.branches["main"])
        self.answer(200, {})

    def lfs_batch(self, objects: list[dict[str, Any]]) -> None:
        answers = []
        for wanted in objects:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.store:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            answers.append(answer)
        self.answer(200, {"transfer": "basic", "objects": answers})

    def put(self, parts: list[str]) -> None:
        with self.hub.lock:
            if self.hub.refuse_put is not None:
                self.hub.refuse_put -= 1
            is_cut = self.hub.refuse_put is not None and self.hub.refuse_put < 0
        if is_cut:  # in the middle of the file
            self.rfile.read(min(100, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            self.connection.close()
            return
        data = self.body()
        if hashlib.sha256(data).hexdigest() != parts[1]:
            return self.refuse(400, None, "the content does not have the announced hash")
        with self.hub.lock:
            self.hub.store[parts[1]] = data
            self.hub.uploaded.append((parts[1], len(data)))
        self.answer(200)

    def commit(self, repo_id: str, branch: str, body: bytes) -> None:
        repository, changes = self.hub.repositories[repo_id], {}
        for line in filter(None, body.split(b"\n")):
            item = json.loads(line)
            match item["key"]:
                case "file":
                    changes[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                case "lfsFile":
                    if item["value"]["oid"] not in self.hub.store:
                        return self.refuse(400, None, f"{item['value']['path']} was not uploaded")
                    changes[item["value"]["path"]] = self.hub.store[item["value"]["oid"]]
        commit = repository.commit_to(branch, changes)
        url = f"{self.hub.url}/{repo_id}/commit/{commit}"
        self.answer(200, {"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})


def running_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[HubServer]:
    """A fresh server, which the real client of this process takes for the Hub; no token is set. For a fixture."""
    server = HubServer()
    constants = huggingface_hub.constants
    cache = str(folder / "hub-cache")
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": cache,
        "HF_TOKEN_PATH": str(folder / "no-token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    try:
        yield server
    finally:
        server.close()
