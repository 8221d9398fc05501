"""Links from a page to the files around it."""

from urllib.parse import quote


def relative_url(path: str) -> str:
    """The link to a file beside the page, so written that no name can mean anything else.

    Everything but letters, digits and `/ . _ - ~` is percent-encoded and `./` stands in front, so that
    "javascript:x", "//host/x" and "a#b 100%?.mp4" are plain names.

    Args:
        path: as Python reads it from the file system, relative to the page's folder, with forward slashes;
            "" gives "".
    """
    return "./" + quote(path.encode(errors="surrogateescape"), safe="/") if path else ""
