"""Which addresses pictures are fetched from, and which are refused before anybody is asked."""

import socket

import pytest
from tls_server import Names, fetching, refusal

from groma.serve.remote import RemotePictures, is_public

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
    "169.253.255.255", "169.255.0.0", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e",
    "::ffff:8.8.8.8", "2002:0808:0808::1",
]  # fmt: skip

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1",
    "192.0.0.170", "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::2", "::127.0.0.1", "::8.8.8.8",
    "::ffff:0.0.0.0", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:192.168.1.1",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::7f00:1", "64:ff9b:1::10.0.0.1", "100::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:7f00:0001::", "2002:0a00:0001::1",
    "2002:a9fe:a9fe::1", "2002:c0a8:0101::1", "fc00::1", "fd00:ec2::254", "fdff:ffff::1", "fe80::1", "fe80::1%eth0",
    "febf::1", "ff02::1", "ff0e::1", "4000::1", "", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1",
    "1.1.1.1 ", "1.1.1.1/32", "1.1.1", "[::1]", "::ffff:1.1.1.1.1",
]  # fmt: skip

NOT_PUBLIC_EITHER = [
    "fec0::1",  # site-local, the older form of fc00::/7
    "feff::1",
    "192.0.0.8",  # of 192.0.0.0/24, which nobody outside has
    "192.0.0.192",  # a cloud's metadata
    "3fff::1",  # documentation
]


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_open_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_at_home_are_not_public(address):
    assert not is_public(address)


# R3, was broken until is_public knew site-local addresses and did not depend on Python's table of the day
@pytest.mark.parametrize("address", NOT_PUBLIC_EITHER)
def test_addresses_that_python_takes_for_public_are_not(address):
    assert not is_public(address)


# --- addresses of the web --------------------------------------------------------------------------------------------

REFUSED = [
    "http://pictures.test/a.png", "HTTP://pictures.test/a.png", "ftp://pictures.test/a.png", "file:///etc/passwd",
    "file://pictures.test/etc/passwd", "gopher://pictures.test/_GET", "javascript:alert(1)", "//pictures.test/a.png",
    "pictures.test/a.png", "/etc/passwd", "", " ", "https:", "https:pictures.test", "https:/pictures.test/a",
    "https://", "https:///a.png", "https://:443/a", "https://?a", "https://#a", "https://user@pictures.test/a",
    "https://user:secret@pictures.test/a", "https://:@pictures.test/a", "https://@pictures.test/a",
    "https://pictures.test@127.0.0.1/a", "https://pictures.test\\@127.0.0.1/a", "https://pictures.test:444/a",
    "https://pictures.test:80/a", "https://pictures.test:0/a", "https://pictures.test:65536/a",
    "https://pictures.test:-1/a", "https://pictures.test:443a/a", "https://[::1/a", "https://]/a", "https://[/a",
    "https://[127.0.0.1]/a", "https://pictures.test/a b", "https://pictures.test/\u00e4",
    "https://pictures.test/a?\u2028", "https://pictures.test/\x00", "https://pictures.test/\x7f",
    "https://pictures\u2100test/a", "https://pictures.test\uff0f@127.0.0.1/a",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_are_refused_before_anything_is_asked(url):
    names = Names(["127.0.0.1"])
    refusal(fetching(names, allowed=lambda _: True), url)
    assert names.asked == []


@pytest.mark.parametrize("host", ["pictures\r\n.test", "pic\ttures.test", "pictures.test\n"])
def test_line_breaks_in_a_host_reach_nobody(host):
    names = Names(["10.0.0.1"])
    refusal(fetching(names), f"https://{host}/a\r\nX-Injected: yes")
    assert all("\n" not in name and "\r" not in name and "\t" not in name for name in names.asked)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "0",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "localhost",
        "LOCALHOST",
    ],
)
def test_every_way_to_write_this_machine_is_refused(host):
    pictures = RemotePictures(max_bytes=1000, time_limit_s=2.0)  # with the resolver that is used in earnest
    assert "data URL" in refusal(pictures, f"https://{host}/") or "could not be fetched" in refusal(
        pictures, f"https://{host}/"
    )


def test_one_private_address_among_public_ones_is_enough_to_refuse(tls):
    for answer in (["127.0.0.1", "8.8.8.8"], ["8.8.8.8", "127.0.0.1"], []):
        refusal(fetching(Names(answer), port=tls.port, context=tls.trusting), "https://pictures.test/")
    assert tls.requests == []


# R1, was broken because InputError is a ValueError, which `fetch` turns into "the connection failed"
@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], []])
def test_it_is_told_that_a_host_is_not_on_the_open_internet(answer):
    text = refusal(fetching(Names(answer)), "https://pictures.test/")
    assert "pictures.test is not on the open internet" in text
    assert not any(address in text for address in answer)


def test_names_that_nobody_knows():
    text = refusal(fetching(Names(socket.gaierror(-2, "Name or service not known"))), "https://pictures.test/")
    assert text == "the picture at pictures.test could not be fetched: the host is not known"
    for host in ("a" * 200 + ".test", "\ud800", "pictures\u2044test"):
        assert "could not be fetched" in refusal(fetching(Names(UnicodeError("label too long"))), f"https://{host}/")
