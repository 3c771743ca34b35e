"""An upstream with three blobs, slow enough that one can look at what becomes of them, two that come as fast as they can,
and an image: says what each is called, how often each was asked for, and how many bytes of it were sent."""

import hashlib
import http.server
import io
import json
import pathlib
import random
import sys
import tarfile
import threading
import time

SIZE = 8_000_000
CHUNK = 200_000
BLOBS = {name: random.Random(name).randbytes(SIZE) for name in ("1", "2", "3")}
BLOBS |= {name: random.Random(name).randbytes(8 * SIZE) for name in ("4", "5")}


def image():
    """A layer, a configuration and a manifest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("content")
        entry.size = SIZE // 10
        tar.addfile(entry, io.BytesIO(random.Random("content").randbytes(entry.size)))
    layer = layer.getvalue()
    name = lambda blob: "sha256:" + hashlib.sha256(blob).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [name(layer)]}
    configuration = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    oci = "application/vnd.oci.image."
    part = lambda kind, blob: {"mediaType": oci + kind, "digest": name(blob), "size": len(blob)}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": part("config.v1+json", configuration)}
    return layer, configuration, json.dumps(manifest | {"layers": [part("layer.v1.tar", layer)]}).encode()


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
BLOBS |= dict(zip(("layer", "configuration", "manifest"), image()))
DIGESTS = {name: "sha256:" + hashlib.sha256(blob).hexdigest() for name, blob in BLOBS.items()}
NAMES = {digest: name for name, digest in DIGESTS.items()}
GETS = dict.fromkeys(BLOBS, 0)
SENT = dict.fromkeys(BLOBS, 0)
COUNTING = threading.Lock()
COUNTS = {"gets": GETS, "sent": SENT}


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", counted=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(body), CHUNK):
            piece = body[start : start + CHUNK]
            if counted is not None:
                with COUNTING:
                    SENT[counted] += len(piece)
            self.wfile.write(piece)
            if len(body) == SIZE:
                time.sleep(0.1)

    def do_GET(self):
        *_, kind, name = self.path.split("/")
        if kind in COUNTS:
            return self.answer(200, str(COUNTS[kind][name]).encode())
        if kind == "size":
            return self.answer(200, str(len(BLOBS[name])).encode())
        if kind == "name":
            return self.answer(200, DIGESTS[name].encode())
        name = "manifest" if kind == "manifests" and name == "1" else NAMES.get(name)
        if kind == "manifests" and name == "manifest":
            return self.answer(200, BLOBS[name], Docker_Content_Digest=DIGESTS[name], Content_Type=MANIFEST)
        if kind != "blobs" or name is None:
            return self.answer(200 if self.path == "/v2/" else 404)
        blob, wanted = BLOBS[name], self.headers.get("Range")
        with COUNTING:
            GETS[name] += self.command == "GET"
        if wanted is None:
            return self.answer(200, blob, name, Docker_Content_Digest=DIGESTS[name])
        first, last = wanted.removeprefix("bytes=").split("-")
        first, last = int(first), min(int(last or len(blob) - 1), len(blob) - 1)
        return self.answer(206, blob[first : last + 1], name, Content_Range=f"bytes {first}-{last}/{len(blob)}")

    do_HEAD = do_GET


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Who is killed hangs up."""


server = Server(("127.0.0.1", 0), Upstream)
(pathlib.Path(sys.argv[1]) / "upstream").write_text(f"http://127.0.0.1:{server.server_port}")
server.serve_forever()
