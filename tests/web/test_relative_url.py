"""Links whose names mean nothing but names."""

from urllib.parse import unquote_to_bytes, urljoin

from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.web import relative_url

PAGE = "file:///home/someone/comparison/report.html"


def test_names_that_would_be_something_else():
    assert relative_url("clips/a#b 100%?.mp4") == "./clips/a%23b%20100%25%3F.mp4"
    assert relative_url("javascript:alert(1)") == "./javascript%3Aalert%281%29"
    assert relative_url("//host/x.mp4") == ".///host/x.mp4"
    assert relative_url("\\\\host\\x.mp4") == "./%5C%5Chost%5Cx.mp4"
    assert relative_url("名前.mp4") == "./%E5%90%8D%E5%89%8D.mp4"
    assert relative_url("byte-\udcff.mp4") == "./byte-%FF.mp4"
    assert relative_url("") == ""


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1))
def test_a_browser_finds_the_very_name_beside_the_page(name: str):
    url = relative_url(name)
    assert url.isascii() and not set(url) & set("#?\"'<>&\\: \n")
    assert unquote_to_bytes(url.removeprefix("./")) == name.encode()
    assert urljoin(PAGE, url).startswith("file:///home/someone/") or ".." in name
