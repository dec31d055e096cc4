"""Push to and load from a hub: huggingface_hub as it is, against a small server of our own on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raycondense.artifact.format import FILES
from raycondense.artifact.load import load
from raycondense.errors import ArtifactError

pytest.importorskip("huggingface_hub")

SHA = "0123456789abcdef0123456789abcdef01234567"

# huggingface_hub reads its environment once, at import: so the whole conversation is held in a process of its own.
CODE = """
import json, sys
import raycondense
from raycondense.errors import RaycondenseError

for verb, *words in json.loads(sys.argv[1]):
    try:
        if verb == "push":
            print(raycondense.load(words[0]).push(words[1], token=words[2]))
        else:
            artifact = raycondense.load(words[0])
            print(*artifact.classes, artifact.bank(5).images.sum().item())
    except RaycondenseError as error:
        print(type(error).__name__, error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as one repository needs."""

    files: dict[str, bytes] = {}  # noqa: RUF012  # filled by a push, emptied by the fixture
    created: list[dict] = []  # noqa: RUF012

    def answer(
        self, status: int, value: object = None, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        body = body or (b"" if value is None else json.dumps(value).encode())
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer(401, {"error": "no token"})
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(text))
            self.answer(200, {"url": f"http://{self.headers['Host']}/me/cats"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(text)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"commitUrl": f"http://{self.headers['Host']}/me/cats/commit/{SHA}", "commitOid": SHA})
        else:
            self.answer(404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/cats") and self.files:
            if "/tree/" in path:
                entries = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.files.items()]
                self.answer(200, entries)
            else:
                self.answer(200, {"id": "me/cats", "sha": SHA, "siblings": [{"rfilename": n} for n in self.files]})
        elif path.startswith(f"/me/cats/resolve/{SHA}/") and path.rpartition("/")[2] in self.files:
            body = self.files[path.rpartition("/")[2]]
            etag = hashlib.sha1(body).hexdigest()
            self.answer(200, headers={"X-Repo-Commit": SHA, "ETag": f'"{etag}"'}, body=body)
        else:
            self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def hub(tmp_path) -> Iterator[dict[str, str]]:
    """Environment of a process for which the server is the hub."""
    Hub.files.clear()
    Hub.created.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
    }
    server.shutdown()
    server.server_close()
    thread.join()


def run(environment: dict[str, str], *commands: tuple[str, ...]) -> list[str]:
    """What the process prints for each command, one line each."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(commands)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(commands), lines
    return lines


def test_push_and_load_go_round(artifact, hub, tmp_path):
    (artifact.path / "notes.txt").write_text("private")
    whole = str(artifact.path)
    incomplete = str(shutil.copytree(whole, tmp_path / "incomplete"))
    (tmp_path / "incomplete" / "preview.png").unlink()
    early, refused, partial, address, newest, pinned, other, bad = run(
        hub,
        ("load", "hf-hub:me/cats"),
        ("push", whole, "me/cats", "wrong"),
        ("push", incomplete, "me/cats", "secret"),
        ("push", whole, "me/cats", "secret"),
        ("load", "hf-hub:me/cats"),
        ("load", f"hf-hub:me/cats@{SHA}"),
        ("load", "hf-hub:me/dogs"),
        ("load", "hf-hub:not a name"),
    )
    for line in (early, refused):
        assert line.startswith("ArtifactError hf-hub:me/cats: ")
    assert partial == f"ArtifactError {incomplete}: cannot be pushed without preview.png"
    assert address.endswith("/me/cats")
    assert sorted(Hub.files) == sorted(FILES), "files that are not the artefact's stay at home"
    assert [request["name"] for request in Hub.created] == ["cats"]
    assert Hub.files["generator.safetensors"] == (artifact.path / "generator.safetensors").read_bytes()
    assert newest == pinned == f"cat dog owl {artifact.bank(5).images.sum().item()}"
    assert other.startswith("ArtifactError hf-hub:me/dogs: ")
    assert bad.startswith("ArtifactError hf-hub:not a name: ")


def test_hub_out_of_reach_is_told():
    # The environment of all tests says HF_HUB_OFFLINE.
    with pytest.raises(ArtifactError, match=r"^hf-hub:me/cats: ") as caught:
        load("hf-hub:me/cats")
    assert "\n" not in str(caught.value)
