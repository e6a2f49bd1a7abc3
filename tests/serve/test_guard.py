"""Other pages, other hosts, other people: who is kept out, and by what."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from salad_ds.errors import SaladError
from salad_ds.serve.guard import HEADERS, host_of, loopback, require_token
from tests.serve.conftest import running

pytestmark = pytest.mark.assets
TOKEN = "correct horse battery"


@pytest.fixture(scope="module")
def locked(served):
    """The page as it is opened to a network (it listens here all the same)."""
    with running(served, local=False, token=TOKEN, names=("ears.example",)) as site:
        yield site


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:80", "[::1]:80", "LOCALHOST", "localhost."])
def test_this_machine_by_its_names(site, host):
    assert site.ask("GET", "/api/student", host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8017", "127.0.0.1.evil.example", "10.0.0.1", "[", "",
                                  "localhost.evil.example", "localhost@evil.example"])  # fmt: skip
def test_a_name_that_was_rebound_to_this_machine_is_refused(site, host):
    for path in ("/", "/api/student"):
        assert site.ask("GET", path, host=host).status in (400, 421), host


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}, {"origin": ""},
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
], ids=str)  # fmt: skip
def test_another_page_of_the_browser_is_refused(site, human, headers):
    for method, path, body in (("POST", "/api/clips", human[0]), ("GET", "/api/student", None)):
        answer = site.ask(method, path, body, **headers)
        assert answer.status == 403 and "another page" in answer.json["error"]


def test_the_page_itself_is_not_another_one(site, human):
    own = {"origin": f"http://127.0.0.1:{site.port}", "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"}
    assert site.ask("POST", "/api/clips", human[0], **own).status == 200
    linked = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert site.ask("GET", "/", **linked).status == 200, "a link to it may be followed"


@pytest.mark.parametrize("method, path", [("GET", "/"), ("GET", "/nowhere"), ("POST", "/api/clips"), ("PUT", "/x")])
def test_every_answer_is_sealed(site, locked, method, path):
    for place in (site, locked):
        answer = place.ask(method, path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert not any(name.startswith("access-control") for name in answer.headers)
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("method, path", [("GET", "/api/student"), ("POST", "/api/clips"), ("POST", "/api/words"),
                                          ("POST", "/api/answers"), ("GET", "/api/nothing")])  # fmt: skip
def test_without_the_token_there_is_only_the_door(locked, human, method, path):
    answer = locked.ask(method, path)
    assert answer.status == 401 and "token" in answer.json["error"]
    assert locked.ask("GET", "/").status == locked.ask("GET", "/page.js").status == 200


def test_what_is_not_the_token(locked):
    key = "authorization"
    for headers in ({key: f"Bearer {TOKEN}x"}, {key: f"Basic {TOKEN}"}, {key: "Bearer \xff"}, {"cookie": "salad-x=1"},
                    {"cookie": f"salad={TOKEN}"}):  # fmt: skip
        assert locked.ask("GET", "/api/student", **headers).status == 401, headers
    assert locked.ask("GET", f"/api/student?token={quote(TOKEN)}").status == 401, "never in an address"


def test_the_token_opens_by_header_and_by_cookie(locked, human):
    assert locked.ask("GET", "/api/student", authorization=f"Bearer {TOKEN}").status == 200
    for given in ("wrong", "", TOKEN[:-1], 5, None, "ü"):
        refused = locked.ask("POST", "/api/enter", {"token": given})
        assert refused.status == 401 and "set-cookie" not in refused.headers
    entered = locked.ask("POST", "/api/enter", {"token": TOKEN})
    cookie, *rest = entered.headers["set-cookie"].split("; ")
    assert entered.status == 200 and {"HttpOnly", "SameSite=strict"} <= set(rest) and TOKEN not in cookie
    assert locked.ask("POST", "/api/clips", human[0], cookie=cookie).status == 200
    assert locked.ask("POST", "/api/clips", human[0], cookie=cookie + "x").status == 401
    foreign = locked.ask("POST", "/api/clips", human[0], cookie=cookie, origin="http://evil.example")
    assert foreign.status == 403, "the cookie alone is not enough"


def test_a_page_on_a_network_by_its_address_or_its_names(locked):
    key = {"authorization": f"Bearer {TOKEN}"}
    for host in ("192.168.7.7:8017", "[2001:db8::1]", "ears.example", "EARS.example:443", "localhost"):
        assert locked.ask("GET", "/api/student", host=host, **key).status == 200, host
    assert locked.ask("GET", "/api/student", host="evil.example", **key).status == 421


def test_open_to_others_only_with_a_good_token():
    assert require_token("127.0.0.1", "") == require_token("localhost", "") == require_token("::1", "") == ""
    assert require_token("0.0.0.0", TOKEN) == TOKEN
    assert len(require_token("0.0.0.0", "new")) >= 24 and require_token("::", "new") != require_token("::", "new")
    for host, token, words in (("0.0.0.0", "", "there is no token"), ("", "", "no token"), ("::", "", "no token"),
                               ("192.168.7.7", "", "no token"), ("0.0.0.0", "short", "at least 16"),
                               ("127.0.0.1", "short", "at least 16"), ("0.0.0.0", "ü" * 20, "plain ASCII"),
                               ("no such host.invalid", "", "has no address")):  # fmt: skip
        with pytest.raises(SaladError, match=words) as caught:
            require_token(host, token)
        assert caught.value.mend and (len(token) < 3 or token not in str(caught.value))


def test_hosts():
    assert loopback("127.0.0.1") and loopback("127.1.2.3") and loopback("::1") and not loopback("0.0.0.0")
    assert [host_of(name) for name in ("A.b:1", "[::1]:2", "[", "", "a b")] == ["a.b", "::1", "", "", "a b"]
