"""Storage: the same bytes from a disk, from memory, over HTTP and from S3; passing faults pass, lasting ones are
named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salad_ds.config import StorageConfig, load_recipe
from salad_ds.data import sources, storage
from salad_ds.data.sources import Walk
from salad_ds.data.storage import Missing
from salad_ds.errors import DataError, RecipeError
from tests.data.range_server import serving

FAST = StorageConfig(retries=3)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    (root / "x.bin").write_bytes(np.random.default_rng(0).bytes(50_000))
    (root / "lines.txt").write_bytes(b"head" * 6000 + b"\nsecond\n")
    with serving(root) as server:
        yield server


@pytest.fixture
def server(served):
    served.faults.clear()
    served.asked.clear()
    served.ranges = True
    return served


@pytest.fixture
def memory():
    """A directory of fsspec's memory, removed afterwards."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    fsspec.filesystem("memory").rm(name.removeprefix("memory:/"), recursive=True)


@given(st.integers(0, 50_000), st.integers(0, 50_000))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranges_are_the_same_everywhere(server, memory, first, size):
    size = min(size, 50_000 - first)
    path = server.root / "x.bin"
    wanted = path.read_bytes()[first : first + size]
    storage.write_bytes(f"{memory}/x.bin", path.read_bytes())
    for place in (path, f"file://{path}", f"{memory}/x.bin", f"{server.url}/x.bin"):
        assert sources.open_source(place, FAST).read(first, size) == wanted
        with pytest.raises(DataError, match="ends at byte|cannot be read"):
            sources.open_source(place, FAST).read(49_999, 2)


@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_walking_gives_what_a_file_gives(server, monkeypatch, data):
    """Blocks that are smaller and larger than what is asked for, and jumps ahead and back."""
    path = server.root / "x.bin"
    monkeypatch.setattr(sources.RemoteSource, "block", data.draw(st.sampled_from([1, 512, 7000, 1 << 20])))
    walks = [Walk(sources.open_source(place, FAST)) for place in (path, f"{server.url}/x.bin")]
    with open(path, "rb") as file:
        for _ in range(8):
            if data.draw(st.booleans()):
                to = data.draw(st.integers(0, 51_000))
                file.seek(to)
                for walk in walks:
                    walk.seek(to)
            size = data.draw(st.integers(0, 9000))
            wanted = file.read(size)
            assert [walk.read(size) for walk in walks] == [wanted, wanted]
            assert [walk.tell() for walk in walks] == [file.tell()] * 2


@pytest.mark.parametrize("fault", [503, 429, 500, "cut"])
def test_passing_faults_pass(server, fault):
    server.faults.extend([fault] * 3)
    assert storage.read_bytes(f"{server.url}/x.bin", FAST) == (server.root / "x.bin").read_bytes()
    assert len(server.asked) == 4


def test_lasting_faults_are_named_without_what_is_secret(server):
    server.faults.extend([503] * 4)
    url = f"{server.url}/x.bin?signature=geheim"
    with pytest.raises(DataError) as caught:
        sources.open_source(url, FAST).read(0, 10)
    assert f"{server.url}/x.bin cannot be read (503" in caught.value.what and "4 tries" in caught.value.what
    assert "geheim" not in str(caught.value)
    assert storage.shown("https://me:word@host/x?sig=1") == "https://host/x"
    server.asked.clear()
    server.faults.extend([403])
    with pytest.raises(DataError, match="403"):
        sources.open_source(url, FAST).read(0, 10)
    assert len(server.asked) == 1, "a lasting fault is not tried again"
    with pytest.raises(Missing, match="nowhere.bin is missing"):
        storage.read_bytes(f"{server.url}/nowhere.bin", FAST)
    with pytest.raises(DataError, match="127.0.0.1:1/x cannot be read.*4 tries"):
        storage.read_bytes("http://127.0.0.1:1/x", FAST)


@pytest.mark.parametrize("ask", [
    lambda url, how: storage.read_bytes(url, how), lambda url, how: storage.exists(url, how),
    lambda url, how: storage.names_in(url, how), lambda url, how: sources.open_source(url, how).size(),
    lambda url, how: sources.open_source(url, how).read(0, 5),
])  # fmt: skip
def test_a_server_that_never_answers_is_given_up(ask):
    with socket.create_server(("127.0.0.1", 0)) as listener:  # connections are made, and nobody takes them
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        began = time.monotonic()
        with pytest.raises(DataError, match="cannot be read"):
            ask(url, StorageConfig(retries=0, timeout=0.3))
        assert time.monotonic() - began < 40, "without this timeout it would be 60 s"


class Named(fsspec.AbstractFileSystem):
    """Its files hold the host that their URL names."""

    protocol = "named"

    def __init__(self, host: str, **options: object) -> None:
        super().__init__(host=host, **options)
        self.host = host

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2].partition("/")[2]

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return {"host": path.partition("://")[2].partition("/")[0]}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **others: object) -> bytes:
        return f"{self.host}: {path}".encode()


def test_urls_of_two_hosts_or_accounts_are_two_file_systems():
    fsspec.register_implementation("named", Named, clobber=True)
    allowed = StorageConfig(allow=["named"])
    read = [storage.read_bytes(f"named://{host}/a/x", allowed) for host in ("one", "two", "one")]
    assert read == [b"one: a/x", b"two: a/x", b"one: a/x"]


def test_a_server_without_ranges_is_named(server):
    server.ranges = False
    with pytest.raises(DataError, match="does not answer with ranges"):
        sources.open_source(f"{server.url}/x.bin", FAST).read(100, 10)


def test_whole_files_lines_and_listings(server, memory, tmp_path):
    for directory in (tmp_path / "a", memory):
        assert storage.names_in(directory) == set()
        for name in ("one.tar", "two.json"):
            storage.write_bytes(storage.join(directory, name), name.encode())
        assert storage.names_in(directory) == {"one.tar", "two.json"}
        assert storage.read_bytes(storage.join(directory, "one.tar")) == b"one.tar"
        assert storage.exists(storage.join(directory, "one.tar"))
        assert not storage.exists(storage.join(directory, "three"))
        with pytest.raises(Missing):
            storage.read_bytes(storage.join(directory, "three"))
    raw = (server.root / "lines.txt").read_bytes()
    storage.write_bytes(f"{memory}/lines.txt", raw)
    for place in (server.root / "lines.txt", f"{server.url}/lines.txt", f"{memory}/lines.txt"):
        assert sources.first_line(place, FAST) == b"head" * 6000
    with pytest.raises(DataError, match="cannot be written"):
        storage.write_bytes(f"{server.url}/new", b"x", StorageConfig(retries=0))


def test_checksums_tell_edges_from_all(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "EDGE", 100)
    path = tmp_path / "x"
    raw = bytearray(os.urandom(1000))
    path.write_bytes(raw)
    edges, whole = sources.edges_of(path), sources.sha256_of(path)
    raw[500] ^= 1
    path.write_bytes(raw)
    assert sources.digest_like(edges, path) == edges and sources.digest_like(whole, path) != whole
    raw[950] ^= 1
    path.write_bytes(raw)
    assert sources.digest_like(edges, path) != edges


@pytest.mark.parametrize("url", ["pipe:touch {}", "simplecache::http://x/{}", "ssh://host/{}", "reference://{}"])
def test_schemes_that_do_more_than_read_are_refused(url, tmp_path):
    url = url.format(tmp_path / "made")
    with pytest.raises(DataError, match="the recipe does not allow") as caught:
        sources.open_source(url, FAST)
    assert url.split(":")[0] in str(caught.value) and "storage.allow" in caught.value.mend
    assert not (tmp_path / "made").exists()


def test_a_pipe_that_is_allowed_is_read_like_a_file(tmp_path):
    allowed = StorageConfig(allow=["pipe"])
    (tmp_path / "x").write_bytes(b"0123456789")
    source = sources.open_source(f"pipe:cat {tmp_path / 'x'}", allowed)
    assert (source.read(3, 4), source.size()) == (b"3456", 10)
    with pytest.raises(DataError, match="ended with 3 .bad luck."):
        sources.open_source("pipe:echo bad luck >&2; exit 3", allowed)


def test_a_chain_that_is_allowed_is_read(server, tmp_path):
    allowed = StorageConfig(allow=["simplecache"], options={"simplecache": {"cache_storage": str(tmp_path)}})
    source = sources.open_source(f"simplecache::{server.url}/x.bin", allowed)
    assert source.read(10, 20) == (server.root / "x.bin").read_bytes()[10:30] and list(tmp_path.iterdir())


def test_a_file_is_opened_again_under_a_source_in_use(tmp_path):
    """What is done when a network file system has lost the handle; such a one cannot be had here."""
    (tmp_path / "x").write_bytes(b"0123456789")
    source = sources.open_source(tmp_path / "x", FAST)
    assert source._again(2, 3) == b"234" and source.read(0, 2) == b"01"


def test_threads_and_forked_processes_share_nothing_that_breaks(server):
    raw, url = (server.root / "x.bin").read_bytes(), f"{server.url}/x.bin"
    wrong = []

    def read(seed: int) -> None:
        source = sources.open_source(url, FAST)
        for first in np.random.default_rng(seed).integers(0, 49_000, 10):
            if source.read(int(first), 500) != raw[first : first + 500]:
                wrong.append(first)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    code = f"""
import os, sys
from salad_ds.data import sources
source = sources.open_source({url!r})
first = source.read(0, 100)
child = os.fork()
if child == 0:
    os._exit(0 if source.read(0, 100) == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a local S3 server."""
    pytest.importorskip("s3fs", reason="s3fs is optional (pip install salad_ds[s3])")
    server = pytest.importorskip("moto.server", reason="moto is the S3 server of this test")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    address = "http://{}:{}".format(*running.get_host_and_port())
    options = StorageConfig(retries=2, options={"s3": {"endpoint_url": address}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "x")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        system, _ = storage.filesystem("s3://corpus/x", options)
        system.mkdir("s3://corpus")
        yield options
    running.stop()


def test_s3(bucket):
    storage.write_bytes("s3://corpus/a/x.bin", b"0123456789\nabc", bucket)
    assert sources.open_source("s3://corpus/a/x.bin", bucket).read(3, 4) == b"3456"
    assert sources.open_source("s3://corpus/a/x.bin", bucket).size() == 14
    assert sources.first_line("s3://corpus/a/x.bin", bucket) == b"0123456789"
    assert storage.names_in("s3://corpus/a", bucket) == {"x.bin"} and storage.names_in("s3://corpus/b", bucket) == set()
    with pytest.raises(Missing, match="s3://corpus/a/y is missing"):
        storage.read_bytes("s3://corpus/a/y", bucket)
    with pytest.raises(DataError):
        sources.open_source("s3://corpus/a/x.bin", bucket).read(12, 10)


def recipe(tmp_path, *overrides: str):
    (tmp_path / "r.yaml").write_text("name: r\nworkdir: /work/dir\nmodel: {llm: x}\n")
    return load_recipe(tmp_path / "r.yaml", overrides)


def test_a_recipe_may_name_urls_and_says_how_they_are_read(tmp_path):
    found = recipe(tmp_path, "storage.allow=[pipe]", "storage.options.s3.endpoint_url=http://here:9000")
    assert found.path("s3://bucket/corpus") == "s3://bucket/corpus" and str(found.path("speech")) == "/work/dir/speech"
    assert (found.storage.allow, found.storage.options) == (["pipe"], {"s3": {"endpoint_url": "http://here:9000"}})
    storage.check_allowed("pipe:true", found.storage)


@pytest.mark.parametrize("option", ["s3.key=x", "s3.secret=x", "gcs.token=x", "az.account_password=x"])
def test_secrets_stay_out_of_recipes(tmp_path, option):
    with pytest.raises(RecipeError, match="would be recorded with every run"):
        recipe(tmp_path, f"storage.options.{option}")
