"""No secret comes through, whatever it is made of and however it is written; what is none stays."""

from __future__ import annotations

import json
import logging
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.core.redaction import RedactingFormatter, redact

MARK = "Xq7"  # the middle of every generated secret


def secrets(alphabet: str) -> st.SearchStrategy[str]:
    part = st.text(alphabet, max_size=8)
    return st.builds(lambda left, right: left + MARK + right, part, part)


UNRESERVED = string.ascii_letters + string.digits + "-._~"
PRINTABLE = string.ascii_letters + string.digits + string.punctuation
NAMES = ["password", "PGPASSWORD", "passwd", "pwd", "token", "hf_token", "secret", "api_key", "API-KEY", "apikey"]
NAMES += ["AWS_SECRET_ACCESS_KEY", "aws_session_token", "X-Amz-Signature", "X-Amz-Credential", "sig", "access_key"]
SCHEMES = ["https", "http", "postgresql", "postgresql+psycopg", "mysql", "s3", "redis", "ftp"]
SURROUNDINGS = ["{}", "cannot open {} now", "study = '{}'", "see ({}), line 3", "a\n{}\nb"]

words = st.sampled_from(NAMES)
SHAPES = {
    "a password in a URL": st.builds(
        "{}://me:{}@host:5432/db".format, st.sampled_from(SCHEMES), secrets(PRINTABLE.replace("\\", ""))
    ),
    "a token in a URL": st.builds("https://{}@host/x".format, secrets(UNRESERVED)),
    "a token and a word in a URL": st.builds("https://{}:x-oauth-basic@host/x".format, secrets(UNRESERVED)),
    "in a query": st.builds("http://host/x?a=1&{}={}&b=2".format, words, secrets(UNRESERVED + "%+/=,;:'")),
    "in a setting": st.builds("{}={}".format, words, secrets(UNRESERVED + "%+/=,;:&@!")),
    "in YAML": st.builds("{}: {}".format, words, secrets(UNRESERVED + "%+/=,;:&@!")),
    "in JSON": st.builds(lambda name, secret: json.dumps({"a": 1, name: secret}), words, secrets(PRINTABLE + " ")),
    "in a mapping of Python": st.builds(lambda name, secret: repr({name: secret}), words, secrets(PRINTABLE + " ")),
    "in quotes": st.builds("{}='{}'".format, words, secrets(UNRESERVED + " ,&")),
    "an option": st.builds("run --{} {} --slots 2".format, words, secrets(UNRESERVED + "%+/=,;:&@!")),
    "an option with =": st.builds("run --{}={} --slots 2".format, words, secrets(UNRESERVED + "%+/=,;:&@!")),
    "a header": st.builds(
        "Authorization: {} {}".format, st.sampled_from(["Token", "Basic", "Bearer"]), secrets(PRINTABLE)
    ),
    "a header in JSON": st.builds(lambda s: json.dumps({"authorization": f"Token {s}"}), secrets(PRINTABLE)),
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_secret_comes_through(shape: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SURROUNDINGS)).format(data.draw(SHAPES[shape]))
    shown = redact(text)
    assert MARK not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/x", "https://***@host/x"),
        ("https://me:s@cre/t@host:1/x", "https://***@host:1/x"),
        ("https://ghp_abc@host/x", "https://***@host/x"),
        ("postgresql://:secret@host/db?sslmode=require", "postgresql://:***@host/db?sslmode=require"),
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("request to http://a:secret@b failed, me@host", "request to http://***@b failed, me@host"),
        ("--token abc --slots 2", "--token *** --slots 2"),
        ('{"password": "a b", "user": "me"}', '{"password": ***, "user": "me"}'),
    ],
)
def test_what_is_around_a_secret_stays(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000",
        "http://host:5000/#/experiments/1?workflowType=machine_learning",
        "postgresql://me@host/db",
        "s3://bucket/prefix",
        "https://host/path@version",
        "mail me@host",
        "trial 3: lr=0.004 star_weight=1.7, 5.92%",
        "the passwords of its URLs",
        "sigma=1.5 design: good",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_tracebacks_in_the_log_are_without_secrets() -> None:
    try:
        raise OSError("cannot reach https://me:hidden@host")
    except OSError as error:
        record = logging.LogRecord("x", logging.INFO, __file__, 1, "token=%s", ("hidden",), (OSError, error, None))
    shown = RedactingFormatter().format(record)
    assert "hidden" not in shown
    assert "https://***@host" in shown
