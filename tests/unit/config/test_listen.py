"""``[HOST:]PORT`` as it is typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.listen import Address, address_of, parse_listen
from swarm.errors import InputError

ports = st.integers(1, 65535)
hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9]{0,5}){0,3}", fullmatch=True),
)


@given(hosts, ports)
def test_an_address_is_read_as_it_is_written(host, port):
    address = Address(host, port)
    assert parse_listen(address.text, "--listen", "x") == address
    assert address_of(address.url) == address


@given(ports)
def test_a_port_alone_keeps_the_host(port):
    assert parse_listen(str(port), "--listen", "10.0.0.7") == Address("10.0.0.7", port)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "port must be a number from 1 to 65535"),
        ("0", "port must be"),
        ("65536", "port must be"),
        ("8080x", "not '8080x'"),
        ("٨٠٨٠", "port must be"),
        ("localhost", "port must be"),
        ("localhost:", "not ''"),
        (":8080", "no host name or address"),
        ("::1:8080", "is not [HOST:]PORT"),
        ("[::1]", "is not [HOST:]PORT"),
        ("[10.0.0.1]:8080", "no IPv6 address"),
        ("10.0.0:8080", "no IPv4 address"),
        ("256.0.0.1:8080", "no IPv4 address"),
        ("my host:8080", "no host name"),
        ("http://localhost:8080", "is not [HOST:]PORT"),
        ("a/b:80", "no host name"),
    ],
)
def test_what_is_no_address_is_refused_by_the_name_of_the_option(text, says):
    with pytest.raises(InputError) as refused:
        parse_listen(text, "--listen", "127.0.0.1")
    assert refused.value.message.startswith(f"--listen {text!r}")
    assert says in refused.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LocalHost"])
def test_loopback(host):
    assert Address(host, 1).is_loopback
    assert not Address(host, 1).is_every


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gpubox", "localhost.example.org", "::ffff:10.0.0.1"])
def test_not_loopback(host):
    assert not Address(host, 1).is_loopback
    assert Address(host, 1).is_every == (host in ("0.0.0.0", "::"))
