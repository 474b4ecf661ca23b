r"""Find the answer that a text gives in its own words, or none; never guess.

`place` says where in a text the answer stands, by one of `PARSERS`:

- **boxed**: in the last \boxed{...}. A box that is not closed is no answer.
- **tag**: in the last <answer>...</answer>, as it stands there. One that is not closed is none.
- **stated**: behind the last statement: "The answer is ...", "Answer: ...", "#### ...", with a word
  for "answer" of many languages (`answers.ANSWERS`). It goes on to the end of its sentence or line,
  or to a "because"; where nothing stands there, it is the line below. What is denied or questioned
  ("the answer is not 5", "is the answer 5?") is no answer.
- **last_line**: the last line that is not empty.
- **whole**: the whole text.
- **auto**: a box, else a tag, else a statement, else the last line, where it, or what follows its
  last "=", has at most `BRIEF` words.
- **number**: as auto, and exactly one number stands there.

What precedes </think> is not read. A **truncated** text (cut at its length limit) may go on in any
way: a closed box or tag counts there, and a statement that more of the text follows; a last line
does not.

`number` reads the value of the one number in a text, as a fraction without rounding: -1,234.50,
3/4, 1 1/2, \frac{3}{4}, 2.5e-3, 6 x 10^4, 5 million, and the digits of any script. Units and
currencies around it do not matter ("5 apples", "$5", "5 km/h"), and "%" is one of them. Of an
equation the right side counts. A comma parts thousands where it can (1,234 and 12,34,567) and else
decimals (3,5 and 1.234,5); of spaces only those that do not break. Not read, as no number is meant
or several are: words ("five"), ranges and lists (3-5, "3 or 4", "x = 3, y = 4"), times, dates and
versions (3:45, 2024-01-05, 1.2.3), roots and powers, 5x, 21st, 5k.
"""

# ruff: noqa: RUF001
from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from ponder.tasks.choice.answers import ANSWERS, FOUND, LINKS, NONE, SEVERAL, one_of

PARSERS = ("auto", "number", "boxed", "tag", "stated", "last_line", "whole")
BRIEF = 5  # words of a last line that auto takes for an answer

_WORDS = one_of(*(word for word in ANSWERS if not word.startswith("I(")))
_LINK = f"(?:{one_of(*LINKS)})"
_SAID = re.compile(
    rf"(?P<no>(?:not the|wrong|incorrect|possible) )?(?:{_WORDS}(?P<gap>[^.!?。\n<]{{0,48}}?)"
    rf"(?:{_LINK}|[:：=→])|####)", re.IGNORECASE)
_TAG = re.compile(r".*<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_MORE = re.compile(rf"[\s:：]*{_LINK}(?=\s)|[\s:：]+", re.IGNORECASE)
_DENIAL = re.compile(r"\s*(?:not|never|neither|nor|unknown|unclear|nicht|pas)\b", re.IGNORECASE)
_UNSAID = re.compile(r"\b(?:not|cannot|never|nicht|pas|nao)\b|n't|不", re.IGNORECASE)
_END = re.compile(r"[.!?](?=[\s\"')*]|\Z)|[。！？\n]|[,;]? (?:because|since|not|which|"
                  r"where|so|instead|as) |[，,]因为")
_MARKS = " \t\r\n*_`\"'“”「」『』"

_DIGITS = (r"[1-9]\d{0,2}(?:[,'’]\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}|\d{1,3}(?:\.\d{3})+(?=,\d)|\d+")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9,
           "trillion": 10**12, "dozen": 12, "lakh": 10**5, "crore": 10**7, "万": 10**4,
           "萬": 10**4, "만": 10**4, "亿": 10**8, "億": 10**8, "억": 10**8}
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\]}])[-+] ?(?=[\d.$\\]))?(?:\$ ?)?(?:"
    r"\\frac\{(?P<over>-?\d+)\}\{(?P<under>\d+)\}|(?P<units>\d+) (?P<top>\d+)/(?P<bottom>\d+)|"
    rf"(?P<value>(?:{_DIGITS})(?:[.,]\d+)?|\.\d+)(?:/(?P<parts>\d+))?"
    r"(?:[eE](?P<power>[+-]?\d+)| ?x ?10\^\{?(?P<ten>-?\d+)\}?)?)"
    rf"(?: ?(?P<scale>{'|'.join(_SCALES)})(?![A-Za-z]))?", re.IGNORECASE)
_UNITS = ("km|cm|mm|nm|m|ft|in|mi|kg|mg|g|lbs?|oz|t|ml|l|L|hrs?|h|min|sec|ms|s|°C|°F|°|%|€|£|¥|V|"
          "W|kW|J|N|Hz|mph|kph|am|pm|cents?|USD|EUR")
_WORD = r"A-Za-z_\d^\u00b0\u00c0-\u04ff"
_AFTER = re.compile(  # what may follow a number, and does not change its value
    rf"(?: ?(?:{_UNITS})(?:\^?[23])?(?![{_WORD}])|(?![{_WORD}]))(?!\s?[:/^]\s?\d|[.,-]\d|\()"
    r"(?! ?(?:[kMB]|mil|mn|bn|mill\w*|bill\w*|tausend|mille|тыс\w*|млн|千|百|십|लाख|करोड़)"
    r"(?![A-Za-z]))")
_BEFORE = re.compile(r"(?:[A-Za-z_\\^\u221a\u0400-\u04ff]|\d[:/.,-]?|[\w^]\(|\^\{)\Z")
_PARTS = re.compile(r"(?:[,;]|\band\b|\bor\b)\s*[A-Za-z]\w*\s*=")  # "x = 3, y = 4"
_FORMULA = re.compile(r"\\(?!frac)[A-Za-z]+|sqrt|(?<![A-Za-z])[b-zB-Z] ?[-+/] ?\d|"
                      r"\d ?[-+/^] ?[b-zB-Z](?![A-Za-z])")  # "18 + x"


class Said(NamedTuple):
    """What a text answers, or None; and whether that was `found`, or `none` or `several` were."""

    text: str | None
    status: str


def read(text: str, parser: str = "auto", truncated: bool = False) -> Said:
    """The answer that a text gives, as it stands there; by parser=number the number alone.

    truncated: the text was cut at its length limit, so that only what is complete counts.
    """
    found = place(text, "auto" if parser == "number" else parser, truncated)
    if found is None:
        return Said(None, NONE)
    if parser != "number":
        return Said(found, FOUND)
    value, status = number(found)
    return Said(None if value is None else written(value), status)


def place(text: str, parser: str, truncated: bool = False) -> str | None:
    """The part of a text in which its answer stands; None where there is none."""
    text = unicodedata.normalize("NFC", text.rpartition("</think>")[2])
    found: str | None = None
    if parser in ("auto", "boxed"):
        found = _boxed(text)
    tagged = "<answer>" in text.lower() and "boxed{" not in text
    if parser == "tag" or (parser == "auto" and tagged):
        tag = _TAG.match(text)
        return (tag[1].strip() or None) if tag else None
    if parser == "stated" or (parser == "auto" and "boxed{" not in text):
        found = _stated(text, truncated)
    announced = parser == "auto" and ("boxed{" in text or _SAID.search(_bare(text)) is not None)
    if parser in ("auto", "last_line") and not (announced or truncated):
        found = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        end = found.rpartition("=")[2].rstrip()
        if parser == "auto" and (len(end.split()) > BRIEF or end.endswith(("?", ":"))):
            return None
    if parser == "whole" and not truncated:
        found = text
    return (found or "").strip(_MARKS).rstrip(".。 ").strip(_MARKS) or None


def _bare(text: str) -> str:
    """A text of the same length whose Latin letters have no accents."""
    return "".join(unicodedata.normalize("NFD", sign)[0] if sign < "\u0250" or
                   "\u1e00" <= sign < "\u1f00" else sign for sign in text)


def _boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}; None where it is not closed."""
    start = text.rfind("boxed{") + len("boxed{")
    depth = 1
    for i in range(start, len(text)) if "boxed{" in text else ():
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[start:i]
    return None


def _stated(text: str, truncated: bool) -> str | None:
    """What the last statement says; None where it is denied, questioned or not complete."""
    text = re.sub(r"\*\*|__", "", text)
    last = next(reversed([*_SAID.finditer(_bare(text))]), None)
    if last is None or last["no"] or _UNSAID.search(last["gap"] or ""):
        return None
    start = last.end()
    while more := _MORE.match(text, start):  # "The answer is: ", and line breaks
        start = more.end()
    end = _END.search(text, start)
    said = text[start:end.start() if end else len(text)]
    if _DENIAL.match(said) or (end and end[0] in "?？"):
        return None
    over = end is not None and (end[0] not in ".。!！" or text[end.end():].strip())
    return said if over or not truncated else None


# --- numbers --------------------------------------------------------------------------------------

def number(text: str) -> tuple[Fraction | None, str]:
    """(the value of the one number in a text, `found`); (None, `none` or `several`) elsewhere."""
    plain = _plain(text)
    if _PARTS.search(plain):
        return None, SEVERAL
    right = plain.rpartition("=")[2]
    plain = right if any(map(str.isdigit, right)) else plain
    values, start = set[Fraction](), 0
    while found := _NUMBER.search(plain, start):
        after, value = _AFTER.match(plain, found.end()), _value(found)
        if value is None or after is None or _BEFORE.search(plain[:found.start()]) or (
                _FORMULA.search(plain)):
            return None, NONE
        start = after.end()
        values.add(value)
    if len(values) > 1:
        return None, SEVERAL
    return (values.pop(), FOUND) if values else (None, NONE)


def written(value: Fraction) -> str:
    """A value as a whole number, a decimal number where that is exact, or a fraction."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = value.denominator.bit_length()  # more than it has decimal places
    scaled = abs(value.numerator) * 10**digits // value.denominator
    whole, part = divmod(scaled, 10**digits)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{part:0{digits}}".rstrip("0").rstrip(".")


_ALIKE = {"\u066b": ".", "\u066c": ",", "\u2212": "-", "\u2013": "-", "×": "x", "\\times": "x",
          "\\cdot": "x", "*": "x", "{,}": ",", "\\,": "'", "\\!": "", "\\ ": " ", "\\;": " ",
          "\\$": "$", "\\%": "%", "^\\circ": "°", "^{\\circ}": "°", "\\left": "", "\\right": "",
          "~": " ", "≈": "=", "\\approx": "=", "½": " 1/2", "¼": " 1/4", "¾": " 3/4"}


def _plain(text: str) -> str:
    r"""A text with ASCII digits and signs, without LaTeX around numbers."""
    text = "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)
    for old, new in _ALIKE.items():
        text = text.replace(old, new)
    text = re.sub(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3})", "'", text)
    text = re.sub(r"(?<=\w)[\u00b2\u00b3\u00b9\u2070-\u2079]", r"^\g<0>", text)
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*\{\s*([-\d]+)\s*\}\s*\{\s*(\d+)\s*\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(\d) *\\frac\{(\d+)\}\{(\d+)\}", r"\1 \2/\3", text)
    return re.sub(r"(?:[€£¥]|US\$)\s?(?=[-\d.])", "$", text).strip("$ ")


def _value(found: re.Match[str]) -> Fraction | None:
    """The value of a number that `_NUMBER` has found; None where it has none."""
    under = int(found["under"] or found["bottom"] or found["parts"] or 1)
    power = int(found["power"] or found["ten"] or 0)
    whole = _decimal(found["value"] or found["units"] or "0")
    if whole is None or not under or abs(power) > 1000:
        return None
    value = whole / under if found["parts"] else whole + Fraction(
        int(found["over"] or found["top"] or 0), under)
    value *= Fraction(10)**power * _SCALES.get((found["scale"] or "").lower(), 1)
    return -value if (found["minus"] or "").startswith("-") else value


def _decimal(digits: str) -> Fraction | None:
    """The value of digits with marks of thousands and decimals among them; None where these are
    out of order.
    """
    digits = re.sub("['’]", "", digits)
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?|[1-9]\d?(,\d{2})+,\d{3}(\.\d+)?", digits):
        return Fraction(digits.replace(",", ""))
    if digits.count(",") > 1:
        return None
    if "," in digits:  # a decimal comma
        digits = digits.replace(".", "").replace(",", ".")
    return Fraction(f"0{digits}")
