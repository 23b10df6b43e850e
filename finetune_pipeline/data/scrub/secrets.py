"""Finds keys, tokens and passwords by the formats of known issuers, or by their randomness after a word that names them."""

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Iterator

_ARMOUR = "[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
PRIVATE_KEY = re.compile(rf"-----BEGIN {_ARMOUR}.*?(?:-----END {_ARMOUR}|\Z)", re.S)
"""A private key in armour, up to the end of the text if the last line is missing."""
_KNOWN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    sk-(?=[\w-]{0,200}[0-9])[A-Za-z0-9_-]{16,}             # OpenAI, Anthropic and their like
  | [sr]k_(?:live|test)_[A-Za-z0-9]{16,} | whsec_[A-Za-z0-9]{24,}  # Stripe
  | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,}       # GitHub
  | glpat-[\w-]{16,} | gl(?:dt|rt|ptt|cbt|ft)-[\w-]{20,}  # GitLab
  | (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])    # AWS
  | xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[0-9]-[A-Za-z0-9-]{20,}  # Slack
  | T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{20,}      # Slack web hook
  | AIza[\w-]{35} | GOCSPX-[\w-]{20,} | ya29\.[\w-]{20,}  # Google
  | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{30,}   # Hugging Face, npm, PyPI
  | SG\.[\w-]{16,}\.[\w-]{16,} | (?:AC|SK)[0-9a-f]{32}(?![0-9A-Za-z]) | key-[0-9a-f]{32}(?![0-9A-Za-z])  # SendGrid, Twilio, Mailgun
  | do[opr]_v1_[0-9a-f]{64} | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32} | dapi[0-9a-f]{32}  # DigitalOcean, Shopify, Databricks
  | hv[sbr]\.[\w-]{24,} | gsk_[A-Za-z0-9]{30,} | r8_[A-Za-z0-9]{30,} | xai-[A-Za-z0-9]{40,} | pplx-[A-Za-z0-9]{40,}
  | sq0(?:atp|csp)-[\w-]{22,} | gl(?:sa|c)_[\w=]{30,} | ATATT3[\w=-]{30,} | figd_[\w-]{30,} | lin_api_[A-Za-z0-9]{30,}
  | ntn_[A-Za-z0-9]{30,} | secret_[A-Za-z0-9]{40,} | dp\.pt\.[A-Za-z0-9]{30,} | AGE-SECRET-KEY-1[A-Z0-9]{50,}
  | (?=[A-Z-]{0,28}[0-9])(?=[0-9-]{0,28}[A-Z])(?:[A-Z0-9]{5}-){4}[A-Z0-9]{5}(?![\w-])    # product keys
  | pat[A-Za-z0-9]{14}\.[0-9a-f]{64} | [0-9]{8,10}:[A-Za-z0-9_-]{35}(?![\w-])      # Airtable, Telegram
)
  | \$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{50,53} | \$(?:[156y]|argon2id?)\$[^\s"'<>]{20,}  # password hashes""",
    re.X,
)
_AWS_SECRET = re.compile(
    r"(?<![A-Za-z0-9/+=])(?=[a-z0-9/+]*[A-Z])(?=[A-Z0-9/+]*[a-z])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"
)
_WEB_TOKEN = re.compile(r"(?<![A-Za-z0-9])eyJ[\w-]{8,1000}\.[\w-]{8,}(?:\.[\w-]*)*")
_BEARER = re.compile(r"(?i)\b(?:bearer|token)\s+([A-Za-z0-9._~+/=-]{16,})")
_BASIC = re.compile(r"(?i)\bbasic\s+([A-Za-z0-9+/]{8,}={0,2})(?![\w+/=])")
_USER_OPTION = re.compile(
    r"\s(?:-u|--user)[ =](?P<pair>[^\s:\"']{1,64}:(?P<word>[^\s\"']{4,128}))"
    r"|\b(?:mysql\w*|mariadb|sshpass|docker login)\s[^\n]{0,80}?(?<!-)-p ?[\"']?(?P<given>[^\s\"'-][^\s\"']{4,128})"
    r"|\blogin\s\S{1,64}\spassword\s(?P<netrc>[^\s\"'<{}@]{4,128})(?!\S)"
)
_URL_LOGIN = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{1,20}://([^\s/:@\[\]]{0,64}:[^\s/@\[\]]{1,128})@")
_NO_LOGIN = re.compile(r"(?i)[<{$%*].*|(?:my|your|db)?[_-]?(?:password|passwd|pass|pwd|token|secret|key)|x+")
"""Placeholder passwords in example URLs."""
_NAME = (
    r"passwor[dt]e?|passwd|(?<![a-z])pass(?=[\"'\]\\]{0,4}\s{0,3}[:=])|passphrase|passcode"
    r"|pwd|pw|kennwort|mot de passe|contraseña|senha|wachtwoord|hasło|парол\w"
    r"|パスワード|密码|비밀번호|token|secret|key"
)
_NAMED = re.compile(
    rf"(?P<name>{_NAME})(?:[_-](?:base|value|hash|b64|hex|live|test|prod|dev)|[0-9]{{1,2}}|\s(?:do|da|de|del|du|of|for|für|to)\s[\w-]{{2,12}})?"
    r"(?:[\\\"'\]]{0,4}\s{0,3}(?P<sign>=>|:=|:(?!:)|[=：]|>(?=[^\s<>]+</)|value=(?=[\"'])|(?<=\s)(?=[\"'][^\s\"']+[\"']))\s{0,3}"
    r"|(?P<option>(?<=--password) |(?<=--token) |(?<=-secret) |(?<=-key) )"
    r"|\s(?P<verb>is|was|lautet|ist|est|es|é|è|to|jest)(?:\snow)?\s?:?\s|(?P<wa>は)\s?|(?P<blank>\s))"
    r"(?P<quote>[bru]?\\?[\"'“„«「`])?(?P<value>[^\s\"'`,;<>\[\]{}“”」]{6,256})"
)
# Code and configuration that refers to a secret and is not one itself
_CALL_OR_NAME = re.compile(
    r"""(?ax)
    (?:[&*!@]?[A-Za-z_$][\w$]*(?:(?:\.|::|->|\?\.|!\.)[A-Za-z_$][\w$]*)*[!?]?)?\(.*      # a call: os.environ.get(
  | [&*!@:]?[A-Za-z_$]+(?:[0-9]{1,4}[A-Za-z_$]*)?(?:(?:\.|::|->|\?\.)[A-Za-z_$]+(?:[0-9]{1,4}[A-Za-z_$]*)?)+[)?;!]* # a.password2
  | [A-Z]+[0-9]*(?:_[A-Z0-9]+)+[);]* | [&*@:][A-Za-z_]\w*                           # DB_PASSWORD_2, &password2, :password2
"""
)
_NAME_OF_SECRET = re.compile(
    r"(?ai)[a-z_]*(?:[0-9]{1,2}[a-z_]*)?(?:pass|pwd|token|secret|key)[a-z_]*+(?:[0-9]{1,2}[a-z_]*+)?"
)
_REFERENCE = re.compile(
    r"""(?ax)
    %\w*\(.*|%\w+%|(?:vault|op|arn|ssm|file|env|secretref|keyring|https?):.*         # where it is kept
  | (?:~|\.{0,2})/[\w./-]*                                                     # a path
  | .{0,8}(?:\.{3}|…).*                                                       # cut
  | [a-z_]+(?::[\w,]+)?(?:\|[a-z_]+(?::[\w,.]+)?)+ | \^.* | .*(?:\(\?|\\[dwsS]).*   # a rule: required|min:8, a pattern
"""
)
_KEYS = r"(?:api|access|private|secret|signing|encryption|auth|licen[sc]e|shared)"
_QUALIFIED = re.compile(rf"[a-z0-9_.-]*(?:{_KEYS}\s)?\Z")
_STRONG = re.compile(rf"{_KEYS}[\s_-]?key\Z|token\Z|secret\Z")
SEED = re.compile(
    r"(?i)(?:seed|recovery|mnemonic|backup|wallet)\s?(?:phrase|words?|seed)?(?:\s(?:is|are|was))?\s?[:=]?\s?[\"'“]?"
    r"(?<=[:=\"'“ ])(?P<value>(?-i:(?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8}))(?![\w])"
)
"""Twelve or more plain words after `seed phrase` or a similar term (BIP 39): the group `value`."""
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_MASKED_OR_CALL = re.compile(r"[*•.xX#…_-]+|\$[\w{(].*|.*\*{3,}.*|[xX]{3,}.*|.*\(.*\)")
"""Masked already, a variable, or a call."""
_MASKED = re.compile(r"[*•.xX#…_-]+.*|\$.*|.*\*{3,}.*|%.*%|.*\(\)?.*")


def entropy(text: str) -> float:
    """Return the Shannon entropy of a text's characters, in bits per character."""
    n = len(text)
    return -sum(c / n * math.log2(c / n) for c in Counter(text).values()) if n else 0.0


NAMES = (
    "pass", "pw", "kennw", "senha", "wachtw", "contrase", "hasło", "парол", "パスワ",
    "密码", "비밀", "key", "token", "secret",
)  # fmt: skip
"""A text, in lower case, that names a secret holds one of these."""
CREDENTIAL_SIGNS = ("bearer", "token ", "basic ", " -u", " -p", "--user", "login ")
"""A text, in lower case, in which `credentials` finds something holds one of these."""


def known_secrets(text: str, start: int, end: int, aws: bool) -> Iterator[tuple[int, int]]:
    """Find keys of known formats within a word. aws: the text mentions AWS, whose secret keys have no prefix."""
    for hit in _KNOWN.finditer(text, start, end):
        if not _is_wordlike(hit[0]):
            yield without_trailing_dot(text, *hit.span())
    for hit in _AWS_SECRET.finditer(text, start, end) if aws else ():
        if not hit[0].isalpha() and not re.fullmatch("[0-9a-f]+", hit[0]):
            yield hit.span()
    for hit in _WEB_TOKEN.finditer(text, start, end):
        if _is_web_token(hit[0]):
            yield without_trailing_dot(text, *hit.span())


def logins(text: str) -> Iterator[tuple[int, int]]:
    """Find ``user:password`` in web addresses and connection strings."""
    return (hit.span(1) for hit in _URL_LOGIN.finditer(text) if not _NO_LOGIN.fullmatch(hit[1].partition(":")[2]))


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """Find tokens after `Bearer`, `Basic` credentials that decode to ``user:password``, and those of ``curl -u``."""
    for hit in _BEARER.finditer(text):
        if secret_value("token", hit[1]):
            yield without_trailing_dot(text, *hit.span(1))
    yield from (hit.span(1) for hit in _BASIC.finditer(text) if _is_user_and_password(hit[1]))
    for hit in _USER_OPTION.finditer(text):
        group = next(name for name in ("pair", "given", "netrc") if hit[name])
        if secret_value("password", hit["word"] or hit[group]):
            yield hit.span(group)


def named_secrets(text: str, low: str) -> Iterator[tuple[int, int]]:
    """Find values after ``name =``, ``name:`` or ``name is`` that are random enough. low: the text in lower case."""
    position = 0
    while hit := _NAMED.search(low, position):
        position = hit.end("name")
        qualifier = _QUALIFIED.search(low, max(0, hit.start() - 40), hit.start())
        name = (qualifier[0] if qualifier else "") + hit["name"]
        start, end = _value_place(text, hit)
        value = text[start:end]
        if not secret_value(name, value) or _EMAIL.fullmatch(value) or (name == "key" and hit["sign"] is None):
            continue
        if _REFERENCE.fullmatch(value):
            continue
        if hit["sign"] and not hit["quote"] and _is_call_or_name(text, name, start, end):
            continue
        if name == "pass" and value.upper() == value.lower():
            continue  # tests passed, not a password
        if hit["blank"] and (len(value) < 16 or _is_password(name) or not _STRONG.search(name)):
            continue
        while text[end : end + 1] == "!" and _is_password(name):
            end += 1
        yield start, end
        position = end


def _is_call_or_name(text: str, name: str, start: int, end: int) -> bool:
    """Whether an assigned value without quotes is a call or a name. In `f(password=password2)` it is a name; elsewhere people
    choose passwords like `password2`."""
    may_be_name = not _is_password(name) or text[end : end + 1] == ")"
    is_name = may_be_name and _NAME_OF_SECRET.fullmatch(text, start, end) is not None
    return is_name or _CALL_OR_NAME.fullmatch(text, start, end) is not None


def _value_place(text: str, hit: re.Match[str]) -> tuple[int, int]:
    """Return the value's place: up to its closing quote, the next parameter of a query, or the end of the sentence."""
    start, end = hit.span("value")
    if hit["quote"]:
        mark = hit["quote"][-1]
        closing = text.find(mark, start, start + 256) if mark in "\"'`" else end
        if closing >= end and not any(c.isspace() for c in text[start:closing]):
            return start, closing - (text[closing - 1] == "\\")
    elif "&" in hit["value"] and "?" in text[max(0, start - 200) : start]:
        end = text.index("&", start)
    start, end = without_trailing_dot(text, start, end)
    if not hit["quote"] and "(" not in hit["value"]:
        while end > start and text[end - 1] == ")" and text.rfind("(", max(0, start - 200), start) >= 0:
            end -= 1
    return start, end


def _is_password(name: str) -> bool:
    """Whether people choose the value with this name, unlike a key, token or secret."""
    return not name.endswith(("key", "token", "secret"))


def secret_value(name: str, value: str) -> bool:
    """Whether the value after a name is random enough to be a secret rather than a word.

    A password needs two kinds of characters, one of them digits or signs. A token, a secret or an `api key` needs eight
    characters that are hexadecimal, or mixed with 2.8 bits each and not words and numbers joined by hyphens. Any other
    `key` needs 16 upper-case, lower-case and digit characters with 3.5 bits each, or 32 hexadecimal ones.
    """
    if _MASKED.fullmatch(value) and not _is_password(name):
        return False
    if _MASKED_OR_CALL.fullmatch(value):
        return False
    patterns = ("[a-z]", "[A-Z]", "[0-9]", r"[^\w\s.:/_-]")
    lower, upper, digits, signs = (bool(re.search(pattern, value)) for pattern in patterns)
    has_two_kinds = lower + upper + digits + signs >= 2
    if _is_password(name):
        return (digits or signs) and has_two_kinds and entropy(value) >= 2.3
    is_hexadecimal = bool(re.fullmatch(r"(?i)(?=.*[0-9])(?=.*[a-f])[0-9a-f-]{16,}", value))
    if _STRONG.search(name):
        is_random = digits and has_two_kinds and entropy(value) >= 2.8 and not _is_wordlike(value)
        return len(value) >= 8 and (is_hexadecimal or is_random)
    is_mixed = lower and upper and digits and entropy(value) >= 3.5 and not _is_wordlike(value)
    return (is_mixed and len(value) >= 16) or (is_hexadecimal and len(value) >= 32)


def _is_wordlike(value: str) -> bool:
    """Whether a value is words and numbers joined by hyphens, dots and the like: a name, not a secret."""
    return all(part.isdigit() or (part.isalpha() and (part[1:].islower() or part.isupper() or len(part) == 1))
               for part in re.split(r"[-_./:]+", value) if part)  # fmt: skip


def _is_web_token(value: str) -> bool:
    """Whether the first part of a JSON web token decodes to a header."""
    try:
        header = base64.urlsafe_b64decode(value.partition(".")[0] + "==")
    except (binascii.Error, ValueError):
        return False
    return b'"alg"' in header or b'"typ"' in header or b'"enc"' in header


def _is_user_and_password(value: str) -> bool:
    try:
        user, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    return bool(colon and password) and all(32 <= c < 127 for c in user + password)


def without_trailing_dot(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the place without the sentence's punctuation at its end."""
    return start, start + len(text[start:end].rstrip(".?:!"))
