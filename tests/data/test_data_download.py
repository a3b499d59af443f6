"""Downloads: checked when they come and when they are used again, never half of one, never from https to http."""

import hashlib
import os
import threading
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from ipu_chem.data import download as module
from ipu_chem.data.download import CHECKSUMS, download, unpack

CONTENT = b"real data\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture()
def server(tmp_path):
    """A folder served over HTTP, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "data.bin").write_bytes(CONTENT)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "10000")
                self.end_headers()
                self.wfile.write(CONTENT[:500])
            else:
                super().do_GET()

    with HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_wrong_or_cut_file_is_never_kept(server, tmp_path):
    file = tmp_path / "cache" / "data.bin"
    with pytest.raises(ValueError, match=f"its checksum is sha256:{SHA256}, not sha256:00ff.*put it at {file}"):
        download("set", f"{server}/data.bin", file, sha256="00ff")
    with pytest.raises(ValueError, match="500 bytes came, not 10,000"):
        download("set", f"{server}/cut", file)
    assert list(file.parent.iterdir()) == []
    assert download("set", f"{server}/data.bin", file, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("published", [SHA256, ""])
def test_a_kept_file_is_compared_again_when_it_has_changed(server, tmp_path, monkeypatch, published):
    file = tmp_path / "data.bin"
    load = partial(download, "set", f"{server}/data.bin", file, sha256=published)
    load()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_SMALL", 0)
        patch.setattr(module, "_checksum", lambda *_: pytest.fail("a large file that is unchanged is not read"))
        load()
    os.utime(file)
    load()  # only its time is another
    damaged = bytearray(CONTENT)
    damaged[77] ^= 1
    state = file.stat()
    file.write_bytes(damaged)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = hashlib.sha256(damaged).hexdigest()
    with pytest.raises(
        ValueError, match=f"{file} is not the file.*{found}, not sha256:{SHA256}; delete it and"
    ) as error:
        load()
    file.unlink()
    (tmp_path / ".data.bin.checksum").unlink()
    assert str(tmp_path / ".data.bin.checksum") in str(error.value)
    assert load().read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_compared_with_the_published_checksum(tmp_path, monkeypatch):
    file = tmp_path / "data.bin"
    file.write_bytes(CONTENT)
    for kind in ("sha256", "md5"):
        monkeypatch.setitem(CHECKSUMS, "http://127.0.0.1:9/x", f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()[:12]}")
        download("set", "http://127.0.0.1:9/x", file)
    monkeypatch.setitem(CHECKSUMS, "http://127.0.0.1:9/x", "md5:0123")
    with pytest.raises(ValueError, match="is not the file that was published.*not md5:0123"):
        download("set", "http://127.0.0.1:9/x", file)
    download("set", "http://127.0.0.1:9/y", file)  # none is known


def test_https_is_not_left_for_http():
    handler, request = module._Redirects(), module.urllib.request.Request("https://here/x")
    with pytest.raises(OSError, match="it redirects to http://there/x, which is not https"):
        handler.redirect_request(request, None, 302, "", {}, "http://there/x")
    assert handler.redirect_request(request, None, 302, "", {}, "https://there/x").full_url == "https://there/x"


def test_an_archive_that_claims_more_than_the_disk_holds_is_refused(tmp_path):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for name in "abcdefgh":
            opened.writestr(name, b"x")
        for member in opened.infolist():
            member.file_size, member.compress_size = 2**50, 1
    with pytest.raises(ValueError, match=r"bomb.zip unpacks to 9,007,199,254,740,992 bytes, .* has room for"):
        unpack("set", archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
