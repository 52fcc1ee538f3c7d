"""Names in the form that is stored and compared, and those that no CA would certify."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcert.errors import InvalidName
from dualcert.lifecycle.inventory import check_names
from dualcert.model import names


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("example.com", "example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("example.com.", "example.com"),
        ("  example.com ", "example.com"),
        ("*.example.com", "*.example.com"),
        ("*.EXAMPLE.com.", "*.example.com"),
        ("müller.example", "xn--mller-kva.example"),
        ("MÜLLER.example", "xn--mller-kva.example"),
        ("*.müller.example", "*.xn--mller-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("xn--mller-kva.example", "xn--mller-kva.example"),
        ("XN--MLLER-KVA.example", "xn--mller-kva.example"),
        ("1.2.example", "1.2.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("x--y.example", "x--y.example"),
    ],
)
def test_a_name_is_stored_as_lower_case_a_labels(typed: str, stored: str) -> None:
    assert names.normalise(typed) == stored
    assert names.normalise(stored) == stored


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "empty name"),
        ("   ", "empty name"),
        (".", "empty name"),
        ("192.0.2.1", "IP address"),
        ("192.0.2.1.", "IP address"),
        ("2001:db8::1", "IP address"),
        ("[2001:db8::1]", "IP address"),
        ("::", "IP address"),
        ("10.0.0.256", "ends in a number"),
        ("my_host.example.com", "underscore"),
        ("_acme-challenge.example.com", "underscore"),
        ("localhost", "single label"),
        ("com", "single label"),
        ("*", "wildcard"),
        ("*.com", "single label"),
        ("*.*.example.com", "wildcard"),
        ("www.*.example.com", "wildcard"),
        ("w*.example.com", "wildcard"),
        ("*example.com", "wildcard"),
        ("a..example.com", "empty label"),
        (".example.com", "empty label"),
        ("*..example.com", "empty label"),
        ("-a.example.com", "hyphen"),
        ("a-.example.com", "hyphen"),
        ("ab--cd.example.com", "third and fourth"),
        ("xn--a.example.com", "internationalised"),
        ("a b.example.com", "letters, digits and hyphens"),
        ("a/b.example.com", "letters, digits and hyphens"),
        ("a@example.com", "letters, digits and hyphens"),
        ("example.com:443", "letters, digits and hyphens"),
        ("https://example.com", "letters, digits and hyphens"),
        ("a" * 64 + ".example.com", "longer than 63"),
        (".".join(["a" * 60] * 4), "longer than 237"),
        ("a\N{ZERO WIDTH JOINER}b.example.com", "internationalised"),
    ],
)
def test_what_no_ca_certifies_is_refused_with_its_reason(typed: str, words: str) -> None:
    with pytest.raises(InvalidName) as caught:
        names.normalise(typed)
    assert words in caught.value.reason
    assert caught.value.remedy, "what to do next"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("typed", ["co.uk", "*.co.uk", "CO.UK.", "com.au", "公司.cn", "*.k12.ca.us"])
def test_a_public_suffix_alone_is_refused(typed: str) -> None:
    with pytest.raises(InvalidName, match="is a public suffix") as caught:
        check_names(["www.example.com", typed])
    assert "example." in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "typed", ["example.co.uk", "*.example.co.uk", "pages.github.io", "host.example.test"]
)
def test_a_name_under_a_public_suffix_is_taken(typed: str) -> None:
    assert check_names([typed]) == (typed,)


def test_each_name_is_taken_once_in_the_order_given() -> None:
    assert check_names(["b.example.com", "A.example.com.", "B.EXAMPLE.com", "a.example.com"]) == (
        "b.example.com",
        "a.example.com",
    )


def test_a_hundred_names_are_the_most() -> None:
    hundred = [f"n{number}.example.com" for number in range(100)]
    assert len(check_names([*hundred, *hundred])) == 100
    with pytest.raises(InvalidName, match="101 names") as caught:
        check_names([*hundred, "one-more.example.com"])
    assert "several pairs" in (caught.value.remedy or "")
    with pytest.raises(InvalidName, match="no name was given"):
        check_names([])


def test_a_set_is_known_by_its_members() -> None:
    assert names.digest(["a.example", "b.example"]) == names.digest(["b.example", "a.example", "a.example"])
    assert names.digest(["a.example"]) != names.digest(["b.example"])
    assert names.digest(["a.example", "b.example"]) != names.digest(["a.example"])


def test_a_wildcard_covers_one_label_and_not_its_own_base() -> None:
    assert names.covers(["*.example.com"], ["www.example.com"])
    assert not names.covers(["*.example.com"], ["example.com"])
    assert not names.covers(["*.example.com"], ["a.b.example.com"])
    assert not names.covers(["*.example.com"], ["*.www.example.com"])
    assert not names.covers(["www.example.com"], ["*.example.com"])
    assert names.covers(["*.example.com", "example.com"], ["example.com", "*.example.com", "x.example.com"])


def test_a_pair_is_called_after_its_first_name_that_is_no_wildcard() -> None:
    assert names.own_name(["*.example.com", "example.com", "www.example.com"]) == "example.com"
    assert names.own_name(["*.example.com", "*.example.org"]) == "*.example.com"
    assert names.probe_name(["*.example.com"]) == "dualcert-probe.example.com"


_LABELS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)


@settings(deadline=None)
@given(st.lists(_LABELS, min_size=1, max_size=4), st.sampled_from(["", "*."]))
def test_normalising_twice_is_normalising_once(labels: list[str], wildcard: str) -> None:
    stored = names.normalise(f"{wildcard}{'.'.join(labels)}.Example")
    assert names.normalise(stored) == stored == stored.lower()
    assert names.reversed_name(names.reversed_name(stored)) == stored
    assert all(names.covers([one], [stored]) for one in names.covering(stored))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_whatever_is_typed_it_is_a_name_or_an_invalid_name(text: str) -> None:
    try:
        stored = names.normalise(text)
    except InvalidName:
        return
    assert stored.isascii()
    assert stored == stored.lower()
    assert not stored.endswith(".")
