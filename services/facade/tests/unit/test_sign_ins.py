"""Sessions of browsers: what makes one count, and what does not."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from pathlib import Path

import pytest

from facade.app.sign_ins import COOKIE_CHARACTERS_MAX, Begun, SignIns, set_cookie
from facade.errors import BadRequestError, SettingsError

HOST = (b"host", b"db.local:8080")
OWN = (b"sec-fetch-site", b"same-origin")
NOW_S = 1000.0


def begun(sign_ins: SignIns, expires_s: float = 2000.0) -> Begun:
    return sign_ins.begin("token:app", "token", "0123", ("token:app",), expires_s)


def headers(
    made: Begun, *more: tuple[bytes, bytes], cookie: str = "dougdb-session", csrf: str | None = None
) -> list[tuple[bytes, bytes]]:
    word = made.csrf if csrf is None else csrf
    shown = [HOST, (b"cookie", f"other=1; {cookie}={made.cookie}".encode()), *more]
    return [*shown, (b"doug-csrf", word.encode())] if word else shown


def test_a_session_counts_until_its_end_and_says_whose_it_is() -> None:
    sign_ins = SignIns()
    made = begun(sign_ins)
    for name in ("dougdb-session", "__Host-dougdb-session"):
        assert sign_ins.read(headers(made, OWN, cookie=name), "PUT", NOW_S) == made.facts
    assert sign_ins.read(headers(made), "PUT", 1999.9) == made.facts
    assert sign_ins.read(headers(made), "PUT", 2000.0) is None
    assert sign_ins.read([HOST], "GET", NOW_S) is None


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("csrf", ["", "x", "other"])
def test_a_cookie_proves_nothing_by_itself(method: str, csrf: str) -> None:
    sign_ins = SignIns()
    made, other = begun(sign_ins), begun(sign_ins)
    with pytest.raises(BadRequestError) as refused:
        sign_ins.read(headers(made, OWN, csrf=other.csrf if csrf == "other" else csrf), method, NOW_S)
    assert (refused.value.status, refused.value.code) == (403, "csrf")
    twice = [*headers(made, OWN), (b"doug-csrf", made.csrf.encode())]
    with pytest.raises(BadRequestError):
        sign_ins.read(twice, method, NOW_S)


@pytest.mark.parametrize(
    "foreign",
    [
        (b"sec-fetch-site", b"cross-site"),
        (b"sec-fetch-site", b"same-site"),
        (b"sec-fetch-site", b"none"),
        (b"origin", b"http://db.local:3000"),
        (b"origin", b"null"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_session_is_for_our_own_pages_alone(foreign: tuple[bytes, bytes], method: str) -> None:
    sign_ins = SignIns()
    made = begun(sign_ins)
    with pytest.raises(BadRequestError) as refused:
        sign_ins.read(headers(made, foreign), method, NOW_S)
    assert (refused.value.status, refused.value.code) == (403, "cross_origin")
    assert sign_ins.read(headers(made, (b"origin", b"http://db.local:8080")), method, NOW_S) == made.facts


def test_what_was_changed_or_signed_by_others_counts_nothing() -> None:
    sign_ins = SignIns()
    made = begun(sign_ins)
    content, signature = made.cookie.split(".")
    forged = begun(SignIns())
    for cookie in (
        "",
        content,
        f"{content}.",
        f".{signature}",
        f"{content[:-2]}AA.{signature}",
        f"{content}.{signature[:-1]}",
        f"{content}.{signature}=",
        f"{content}=.{signature}",
        forged.cookie,
        made.csrf,
    ):
        assert sign_ins.read(headers(made._replace(cookie=cookie)), "GET", NOW_S) is None, cookie
    # A neighbour's cookie of the same name does not keep ours from counting.
    given = [HOST, (b"cookie", f"dougdb-session={forged.cookie}".encode()), *headers(made)[1:]]
    assert sign_ins.read(given, "GET", NOW_S) == made.facts


def test_a_session_that_was_ended_counts_no_more_and_the_others_do() -> None:
    sign_ins = SignIns()
    made, other = begun(sign_ins), begun(sign_ins)
    sign_ins.end(made.facts.name, made.facts.id, made.facts.expires_s, NOW_S)
    assert sign_ins.read(headers(made), "GET", NOW_S) is None
    assert sign_ins.read(headers(other), "GET", NOW_S) == other.facts
    for number in range(20_000):
        sign_ins.end("token:other", str(number), 1500.0, NOW_S)
        sign_ins.end(f"oidc:{number}", "one", 1500.0, NOW_S)
    assert sign_ins.read(headers(made), "GET", NOW_S) is None, "however many others have signed out since"
    assert sign_ins.read(headers(other), "GET", NOW_S) == other.facts


def test_facades_that_have_the_same_key_know_each_others_sessions(tmp_path: Path) -> None:
    path = tmp_path / "session.key"
    path.write_bytes(b"k" * 32 + b"\n")
    made = begun(SignIns(str(path)))
    assert SignIns(str(path)).read(headers(made), "GET", NOW_S) == made.facts
    assert SignIns().read(headers(made), "GET", NOW_S) is None
    for wrong in (tmp_path / "missing", tmp_path):
        with pytest.raises(SettingsError, match="DOUGDB_AUTH_SESSION_KEY_FILE"):
            SignIns(str(wrong))
    path.write_bytes(b"k" * 31 + b"\n")
    with pytest.raises(SettingsError, match="32 bytes"):
        SignIns(str(path))


def test_a_cookie_holds_no_secret_and_fits_into_a_browser() -> None:
    sign_ins = SignIns()
    digest = "d1" * 32
    made = sign_ins.begin("bootstrap", "bootstrap", sign_ins.veiled(digest), (), 2000.0)
    content = urlsafe_b64decode(made.cookie.split(".")[0] + "==").decode()
    assert digest not in content
    assert made.csrf not in content
    with pytest.raises(BadRequestError, match="too many groups"):
        sign_ins.begin("oidc:a", "oidc", "m", tuple(f"group:{number:040}" for number in range(100)), 2000.0)
    assert len(made.cookie) < COOKIE_CHARACTERS_MAX


def test_how_a_browser_is_given_its_cookie() -> None:
    assert set_cookie("v", secure=False) == "dougdb-session=v; Path=/; HttpOnly; SameSite=Strict"
    assert set_cookie("v", secure=True) == "__Host-dougdb-session=v; Path=/; HttpOnly; SameSite=Strict; Secure"
    assert set_cookie("", secure=False).endswith("; Max-Age=0")
