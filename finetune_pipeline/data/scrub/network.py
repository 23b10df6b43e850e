"""E-mail addresses, IP addresses (IPv4, IPv6) and addresses of network cards (MAC)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from finetune_pipeline.data.scrub.numbers import before

# letters but those of scripts that put no blanks between words
_W = r"[^\W\u2e80-\u9fff\uac00-\ud7af]"
_LOCAL = re.compile(rf"(?<!{_W})(?<![.+-])(?!git\Z){_W}(?:(?:{_W}|[.+%'-]){{0,62}}(?:{_W}|\+))?\Z")
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?!(?:png|jpe?g|gif|svg|webp|js|ts|css|json|html?)\b)(?:[^\W\d_a-zA-Z]{2,24}|[a-zA-Z]{2,24}|xn--[\w-]{2,50})(?![A-Za-z0-9-])"
)
_SPELT = re.compile(
    r"(?i)(?<![\w.+-])\w[\w.+-]{0,62}\s?[\[(]\s?at\s?[\])]\s?(?:[\w-]{1,62}(?:\.|\s?[\[(]\s?dot\s?[\])]\s?)){1,6}[a-z]{2,24}(?![\w-])"
)
_IPV4 = re.compile(r"(?a)(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_IPV6 = re.compile(r"(?a)(?<![\w.:])[0-9A-Fa-f:]{2,39}(?:(?<=:)[0-9]{1,3}(?:\.[0-9]{1,3}){3})?(?![\w:]|\.[0-9])")
_MAC = re.compile(
    r"(?a)(?<![\w:-])[0-9A-Fa-f]{2}(?P<gap>[:-])(?:[0-9A-Fa-f]{2}(?P=gap)){4}[0-9A-Fa-f]{2}(?![\w-]|:\w)"
    r"|(?<![\w.])(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?!\w|\.\w)"
)
_MAC_WORD = re.compile(r"(?i)\bmac\b|hwaddr|ether|bluetooth|wi-?fi|dhcp")
_VERSION_WORD = re.compile(
    r"(?i)(?:\bv|(?:\b|-)(?:version|release|build|firmware|driver|agent|client|app|sdk|api|update|upgrade[ds]?|section|chapter"
    r"|clause|chrome|firefox|safari|edge|patch|windows|oid|kernel)(?:\s+(?:to|from|version|is|no\.?))?)[\s:/=v\"'-]*$"
)
_HOST_WORD = re.compile(
    r"(?i)(?:\b(?:ips?|ipv4|hosts?|server|address|adresse|ping|ssh|from|dns|gateway|router|node|machine)\b\W{0,3}\w{0,4}\W{0,3}|[@/\[])$"
)


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Places of e-mail addresses; ``git@host``, ``user@localhost`` and ``package@1.2`` are none."""
    at = text.find("@")
    while at >= 0:
        ends = text[at - 1 : at], text[at + 1 : at + 2]
        domain = _DOMAIN.match(text, at + 1) if ends[0] not in " \n\t" and ends[1].isalnum() else None
        local = _LOCAL.search(text, max(0, at - 66), at) if domain else None
        if local and domain and not text.startswith("_", domain.end()):
            yield local.start(), domain.end()
        at = text.find("@", at + 1)


def spelt_emails(text: str) -> Iterator[tuple[int, int]]:
    """Places of addresses written against robots: ``name [at] example [dot] com``."""
    for hit in _SPELT.finditer(text):
        yield hit.span()


def ipv4(text: str) -> Iterator[tuple[int, int]]:
    """Places of four octets that name a machine: no version number, not this machine, no mask.

    Octets that are all small read as a version or a section unless they are of a private network, or a word such as
    `host` stands before, or a port or a network's length behind them.
    """
    for hit in _IPV4.finditer(text):
        octets = [int(o) for o in hit[0].split(".")]
        if max(octets) > 255 or octets[0] in (0, 127) or octets[0] >= 224:
            continue
        words = before(text, hit.start())
        private = octets[:2] == [192, 168] or (octets[0] == 172 and 16 <= octets[1] < 32)
        if not private and _VERSION_WORD.search(words):
            continue
        if (
            private
            or max(octets) > 30
            or octets[0] == 10
            or _HOST_WORD.search(words)
            or text[hit.end() : hit.end() + 1] in ("/", ":")
        ):
            yield hit.span()


def ipv6(text: str) -> Iterator[tuple[int, int]]:
    """Places of IPv6 addresses; ``::1``, slices such as ``1::2`` and names such as ``std::vector`` are none."""
    for hit in _IPV6.finditer(text):
        value = hit[0]
        if value.count(":") < 2:
            continue
        start, end = hit.span()
        if value.endswith(":") and not value.endswith("::"):
            value, end = value[:-1], end - 1
        try:
            address = ipaddress.IPv6Address(value)
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            continue
        groups = [g for g in value.split(":") if g]
        if any(len(g) >= 3 and any(c.isdigit() for c in g) for g in groups):
            yield start, end


def macs(text: str) -> Iterator[tuple[int, int]]:
    """Places of MAC addresses; neither all zeros nor all ones, no fingerprint of a key;
    figures alone only after a word.
    """
    for hit in _MAC.finditer(text):
        digits = re.sub(r"[^0-9a-f]", "", hit[0].lower())
        if len(set(digits)) > 1 and not (digits.isdecimal() and not _MAC_WORD.search(before(text, hit.start()))):
            yield hit.span()
