"""How arrays travel, and which requests are refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actsort_core.web import pack
from actsort_core.web.guard import Guard

DTYPES = st.sampled_from([np.uint8, np.int8, np.uint16, np.uint32, np.int32, np.float32])


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0))),
        max_size=4,
    ),
    st.dictionaries(st.text().filter(lambda t: t != "arrays"), st.integers() | st.text() | st.none(), max_size=3),
)
def test_a_pack_is_decoded_as_it_was(arrays, header):
    found, decoded = pack.decode(pack.encode(header, arrays))
    assert found == header
    assert list(decoded) == list(arrays)
    for name, array in arrays.items():
        assert decoded[name].dtype == array.dtype
        np.testing.assert_array_equal(decoded[name], array)


@given(st.text(), st.integers(0, 9), st.integers(0, 9))
def test_every_array_begins_at_a_multiple_of_eight_of_the_whole(text, a, b):
    content = pack.encode({"t": text}, {"a": np.zeros(a, np.uint8), "b": np.ones(b, np.float32)})
    (length,) = struct.unpack("<I", content[:4])
    assert (4 + length) % 8 == 0
    about = json.loads(content[4 : 4 + length])["arrays"]
    assert all(entry["offset"] % 8 == 0 for entry in about.values())
    assert len(content) == 4 + length + -(-a // 8) * 8 + -(-4 * b // 8) * 8


def test_big_endian_and_strided_arrays_travel_little_endian_and_whole():
    array = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    np.testing.assert_array_equal(pack.decode(pack.encode({}, {"a": array}))[1]["a"], [[0, 2], [4, 6], [8, 10]])


def test_other_types_are_no_pack():
    with pytest.raises(TypeError, match="float64"):
        pack.encode({}, {"a": np.zeros(3)})


# ---- the guard

GUARD = Guard("t" * 32, "w" * 32, frozenset({"lab-server"}))


def refused(method="GET", path="/api/state", token="t" * 32, host="127.0.0.1:8765", query=b"", **more):
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(b"x-actsort-token", token.encode())] if token is not None else []
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    found = GUARD.refuse({"method": method, "path": path, "query_string": query}, headers)
    return None if found is None else (found.status, found.what)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:9000", "[::1]:8765", "127.0.0.1", "localhost.", "lab-server:8765", "127.8.8.8:1"],
)
def test_it_is_known_by_the_names_of_this_machine_and_by_any_forwarded_port(host):
    assert refused(host=host) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.5:8765", "", "a:b:c", "[::2]:8765", "localhost:x"],
)
def test_a_name_that_was_made_to_point_here_is_refused(host):
    assert refused(host=host)[0] == 403


def test_where_it_listens_to_others_it_is_reached_by_number_but_not_by_any_name():
    guard = Guard("t" * 32, "w" * 32, frozenset(), others=True)

    def status(host):
        found = guard.refuse({"method": "GET", "path": "/static/x", "query_string": b""}, [(b"host", host.encode())])
        return None if found is None else found.status

    assert status("10.9.8.7:8765") is None
    assert status("[fe80::1]:8765") is None
    assert status("evil.example:8765") == 403


def test_no_host_or_two_are_refused():
    assert refused(host=None)[0] == 403
    assert (
        GUARD.refuse({"method": "GET", "path": "/static/x", "query_string": b""}, [(b"host", b"localhost"), (b"host", b"evil")]).status
        == 403
    )


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9999", "null", "http://127.0.0.1:8766"])
def test_another_origin_is_refused_even_with_the_token(method, origin):
    assert "origin" in refused(method, "/api/labels", origin=origin)[1]


def test_the_page_s_own_origin_may():
    assert refused("POST", "/api/labels", origin="http://127.0.0.1:8765", sec_fetch_site="same-origin") is None
    assert refused("POST", "/api/labels", host="localhost:9000", origin="http://localhost:9000") is None


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_browser_calls_cross_site_is_refused_but_for_opening_the_page(site):
    assert "another site" in refused(sec_fetch_site=site, sec_fetch_mode="no-cors")[1]
    assert refused("POST", "/", sec_fetch_site=site, sec_fetch_mode="navigate") is not None
    assert refused("GET", "/", None, query=b"token=" + b"t" * 32, sec_fetch_site=site, sec_fetch_mode="navigate") is None
    assert refused("GET", "/", sec_fetch_site=site, sec_fetch_mode="cors") is not None
    assert refused("GET", "/api/state", sec_fetch_site=site, sec_fetch_mode="navigate") is not None


@pytest.mark.parametrize("token", [None, "", "x", "t" * 31, "T" * 32, "w" * 31, "ü" * 32])
def test_strangers_get_the_static_files_and_nothing_else(token):
    assert "token" in refused(token=token)[1]
    assert "token" in refused(path="/", token=token)[1]
    assert refused(path="/static/js/main.js", token=token) is None


def test_who_may_only_watch_may_look_and_not_say():
    assert refused(token="w" * 32) is None
    assert "watch" in refused("POST", "/api/labels", "w" * 32)[1]
    assert "watch" in refused("DELETE", "/api/labels", "w" * 32)[1]


def test_the_token_may_be_in_the_address():
    assert refused(token=None, query=b"token=" + b"t" * 32) is None
    assert refused(token=None, query=b"token=" + b"w" * 32 + b"&x=1") is None
    assert refused(token=None, query=b"token=wrong") is not None
