r"""Find the letter that a text gives as its answer, or none; never guess.

Letters are Latin; the script and the language around them do not matter, and full-width letters
count as plain ones. Two kinds of places count.

1. **Statements**: a word for "answer" (`ANSWERS`), perhaps a few words up to "is" or a colon, and
   the letter: "The answer is (B).", "Answer: b", "La respuesta correcta es la B", "答案是B",
   "Ìdáhùn ni B"; "I choose B"; \boxed{B} and \boxed{\text{(B)}}; a line of a letter alone: "B",
   "**B**", "(B)", "B.", "option B". The **last** statement counts. If it names several letters
   ("A or B") the text is `several`; if its letter is no option (E of four) the text is `none`.
2. **Mentions**, where nothing is stated: "(B)", "**B**", "option B", "B. blue", and letters that
   stand alone in a sentence. One letter in all is the answer; different ones are `several`.

Lower case counts in statements only. Not counted as letters: the article "A" and the words "I",
"E", "O" of other languages (a vowel before a word, other than "is", "and", "because" and the like);
vitamin C, hepatitis B, B cells, 25 °C; f(A), A + B and x = C. A letter that is denied or questioned
("not B", "B is wrong", "the answer is B?"), or may be an initial (C. elegans, Robert B. Parker), is
mentioned, but is not the answer. Options listed one after the other are mentioned, not stated.

A **truncated** text (one that was cut at its length limit) may go on in any way: "The answer is A"
in "Albania", "B" in "B or C", "A. 4" in a list of all options. There only complete statements
count, those that more of their sentence or line follows; mentions do not.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from ponder.core.lazy_imports import Tensor, torch
from ponder.core.types import Problems

FOUND, NONE, SEVERAL = "found", "none", "several"
UNPARSED = {NONE: -1, SEVERAL: -2}  # in place of the number of an answer
LETTERS = "ABCDEFGHIJ"
FRONT = 12  # a letter among so many first characters of a line may begin an option

# Words for "answer" and what stands between them and the letter, as `plain` writes them: in the
# languages of openai/MMMLU and a few more.
ANSWERS = (
    "answers?", "(?:correct|right|best) (?:option|choice|letter)", "respuesta", "reponse",
    "I(?:'d| would|'ll| will)? (?:choose|pick|select|go with|go for|opt for)", "resposta", "jibu",
    "risposta", "antwort", "jawaban(?:nya)?", "idahun", "esi", "aziza", "osisa", "jaabi", "cevap",
    "dap an", "ответ", "الاجابة", "الإجابة", "الجواب", "उत्तर", "जवाब", "উত্তর", "答案",
    "答え", "答", "正解", "故选", "应选", "我选", "选择", "正确选项", "정답", "답")
LINKS = ("is", "be", "are", "was", "es", "est", "e", "·", "ist", "adalah", "ni", "bu", "je", "ye",
         "la", "هي", "هو", "है", "হল", "হলো", "是", "为", "は", "が", "은", "는")
FILLERS = ("option", "choice", "letter", "the", "la", "el", "le", "die", "der", "a", "opcion",
           "opcao", "lettre", "letra", "opsi", "选项", "either")
JOINTS = ("and", "or", "nor", "et", "ou", "und", "oder", "y", "o", "e", "tabi", "ati",
          "na", "atau", "dan", "au", "и", "или")
NAMES = ("[Vv]itamins?|[Hh]epatitis|[Tt]ypes?|[Gg]roup|[Ff]actor|[Ii]nfluenza|[Pp]lan|[Gg]rade|"
         "[Cc]lass|[Ff]igure|[Pp]rotein|[Ss]tatement|[Hh]a?emoglobin|[Pp]oint|[Ss]et")
NOUNS = "cells?|lymphocytes?|vitamins?|virus|strains?|levels?"
VERBS = "is|was|and|or|nor|but|because|since|isn't|cannot|can't"


def one_of(*words: str) -> str:
    """One of the words, not as part of a longer Latin one."""
    return rf"(?<![A-Za-z])(?:{'|'.join(words)})(?![A-Za-z])"


_LATIN = r"0-9A-Za-z_\u00c0-\u04ff\u1e00-\u1eff"  # and Greek and Cyrillic
_LETTER = re.compile(rf"(?<![{_LATIN}])[A-Za-z](?![{_LATIN}])")
_MARKED = re.compile(rf"(?<![{_LATIN}])(?:\*\*\(?|\*|`|\"|“|「|『|【|\[|\(\s*)([A-Za-z])(?:(\.|:)?"
                     r"(?:\)?\*\*|\*|`|\"|”|」|』|】|\]|\s*\)))")
_STATED = re.compile(
    rf"(?P<no>(?:not the|wrong|incorrect|possible) )?{one_of(*ANSWERS)}(?P<gap>[^.!?。\n]{{0,48}}?"
    rf"(?:{one_of(*LINKS)}|[:=→>\u2014\u2013]| -)|)[\s\"'$:>.-]*(?:{one_of(*FILLERS)} ?)*[($]*\Z",
    re.IGNORECASE)
_UNSAID = re.compile(r"\b(?:not|cannot|never|wrong|incorrect|choices|options|no|nicht|pas|nao|kii|"
                     rf"bughi)\b|n't|不|아니|नहीं|ليس|(?-i:(?<![{_LATIN}])[A-Z](?![{_LATIN}]))",
                     re.IGNORECASE)
_WRONG = ("wrong|incorrect|false|out|impossible|unlikely|ruled out|excluded|eliminated|discarded|"
          "rejected|dismissed|incorrect[ao]|fals[ao]|errad[ao]|descartad[ao]|falsch|fausse?|"
          "incorrecte?|eliminee?")
_ASKED = re.compile(r"\)? ?(?:\?|(?:is|was|can|does|would)(?: not\b|n't)|cannot\b|fails\b|no es\b|"
                    r"n'est\b|nao e\b|kii\b|ko to\b|si(?: jibu)? sahihi\b|"
                    r"(?:is|was|are|es|esta|est|e|ist|·|can be|could be|must be) "
                    rf"(?:also |clearly |definitely |queda )?(?:not|nicht|{_WRONG})\b|"
                    "是错|错|不|可以排除|被排除|गलत|خط)", re.IGNORECASE)
_REFUSED = ("rul(?:e|es|ed|ing) out|exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)|"
            "discard(?:s|ed|ing)?|reject(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|rather than|"
            r"instead of|other than|descart\w+|elimin\w+|exclu\w+|rechaz\w+|ecart\w+|rejet\w+|"
            "nicht|sio|kii se")
_DENIED = re.compile(rf"(?:\b(?:not|cannot|neither|nor|never|except|wrong|{_REFUSED})|n't|排除|"
                     "不选|不是)"
                     rf"(?: {one_of('be', 'is', 'options', 'choices', *ANSWERS, *FILLERS)})*"
                     r" ?\(?\Z", re.IGNORECASE)
_ALONE = re.compile(r"[\s>#({\[\"'$:.-]*(?:(?:option|choice|letter) )?\(?", re.IGNORECASE)
_REST = re.compile(r"[\s)}\]\"'$:;,.。!]*")
_HEADS = re.compile(rf"(?<![{_LATIN}])([A-Z])(?:[):]|\.(?=\s)|[.\s]*\Z)")
_GLUED = re.compile(r"\.[^\W\d_]{2}")  # C.school, but not C.A. or C.5
_OVER = re.compile(r"\)[.。!]|[)\]}\"'$ ]*(?:[.。!,;:]?\n|[.。!;:]\s*\S)")
_MORE = re.compile(r"[)\]}\"'$ ]*(?:,? ?(?:[\u0900-\uffdc]|[^\W\d_]\S*[\s.!?])|, ?\w{4})")
_LINKED = re.compile(rf"(?:{one_of(*LINKS)})\Z", re.IGNORECASE)
_NEXT = re.compile(rf"[^\n]*(?<![{_LATIN}])B[.):]|[^\n]*\n\s*\(?B(?:[.):\s]|\Z)")  # in a list
_JOINT = re.compile(rf"\)?[.\s]*(?:(?:[,/&和或、]|{one_of(*JOINTS)})[\s(\"']*)+", re.IGNORECASE)
# text after a character that is part of something longer, and text before one
_PART = re.compile(rf"[-\u2013'\u2019]\w|[(^=+°\\]|\.\w| [=+^<>] | (?:{NOUNS})\b")
_ROOT = re.compile(r"(?:\w['\u2019.\u2013-]|[°^=+\\$_]|[=+<>] |\d ?|\w\(|"
                   rf"\b(?:{NAMES}) )\Z")


class Answer(NamedTuple):
    """A letter, or None; and whether it was `found`, or `none` or `several` were."""

    letter: str | None
    status: str


class Place(NamedTuple):
    """A letter in a text, what it is joined with ("or B"), and how it stands there."""

    letter: str
    start: int
    stated: bool
    denied: bool


def parse(text: str, letters: str = "ABCD", truncated: bool = False) -> Answer:
    """The answer that a text gives, out of the letters of its options.

    truncated: the text was cut at its length limit, so that only complete statements count.
    """
    text = plain(text)
    places = _places(text)
    stated = [i for i, place in enumerate(places) if place.stated and (
        not truncated or _is_complete(text, place))]
    if stated:
        named, answers = _joined(text, places, stated[-1]), None
    elif truncated:
        return Answer(None, NONE)
    else:
        kept = [place for place in places if place.letter in {*letters, *"ABCDE"}]
        named = {place.letter for place in kept}
        answers = {place.letter for place in kept if not place.denied}
    if len(named) > 1:
        return Answer(None, SEVERAL)
    found = (named if answers is None else answers) & set(letters)
    return Answer(found.pop(), FOUND) if found else Answer(None, NONE)


def letters_of(problems: Problems, texts: list[str], cut: list[bool]) -> Tensor:
    """(B, 2): 1 where a text names the right option, and which one it names; a code of `UNPARSED`
    where it names none, or several. B is P times the texts of each problem, side by side; cut:
    whether a text was cut at its length limit.
    """
    assert problems.label is not None
    samples = len(texts) // max(len(problems), 1)
    counts = problems.option_mask.sum(1).repeat_interleave(samples).tolist()
    said = [parse(text, LETTERS[:count], ended) for text, ended, count in
            zip(texts, cut, counts, strict=True)]
    found = torch.tensor([UNPARSED[status] if letter is None else LETTERS.index(letter)
                          for letter, status in said], device=problems.label.device)
    right = found == problems.label.repeat_interleave(samples)
    return torch.stack([right, found], 1).float()


def plain(text: str) -> str:
    """Text with plain Latin letters: marked ones as (B), boxes as statements, no markup."""
    text = text.translate({code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)})
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"(?<!\w)(?=[^\x00-\x7f])[^\W\d_][\u0300-\u036f]*(?!\w)|"
                  r"(?<!\w)[A-Za-z][\u0300-\u036f]+(?!\w)", _lone, text)
    text = "".join(unicodedata.normalize("NFD", sign)[0] if sign < "\u0250" or
                   "\u1e00" <= sign < "\u1f00" else sign for sign in text)
    text = re.sub(r"[\u0300-\u036f]", "", text)
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|bf|rm)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\f?boxed\s*\{\s*([A-Za-z])\s*\}", r" answer: (\1).", text)
    text = re.sub(r"\\f?boxed\s*\{([^{}]*)\}?", r" answer: \1 ", text)
    text = re.sub(r"\*\*\(?([A-Za-z])\)?[.):](?=\s)", r"(\1)", text)
    text = _MARKED.sub(r"(\1)\2", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"[*`]|</?\w+>", "", text.replace("<answer>", "answer:")))


def _lone(found: re.Match[str]) -> str:
    """A dot for an accented Latin letter that stands alone, such as é; other scripts stay."""
    return "·" if unicodedata.normalize("NFD", found[0])[0].isascii() else found[0]


def _places(text: str) -> list[Place]:
    """All letters in a text that may stand for options."""
    places, listed = [], _listed(text)
    for found in _LETTER.finditer(text):
        letter, start, end = found[0], found.start(), found.end()
        before, after = text[max(0, start - 100):start], text[end:end + 40]
        words = _STATED.search(before)
        said = words is not None and not (words["no"] or _UNSAID.search(words["gap"]))
        glued = said and letter.isupper() and _GLUED.match(after)
        marked = before.endswith("(") and after.startswith(")") and not re.search(
            rf"[{_LATIN}]\($", before)
        if not (marked or glued) and _is_word(letter, after):
            continue
        asked = _ASKED.match(after) is not None
        stated = (said or _is_line(text, start)) and not asked and start not in listed
        mentioned = letter.isupper() and (marked or not _ROOT.search(before))
        if stated or mentioned:
            denied = asked or _DENIED.search(before) is not None or (
                not (stated or marked) and _is_initial(text, start))
            places.append(Place(letter.upper(), start, stated and not denied, denied))
    return places


def _is_word(letter: str, after: str) -> bool:
    """Whether it is an article, or part of something longer, judging by the text after it."""
    vowel = letter in "AaEeIiOo" and re.match(rf" (?!(?:{VERBS})\b)[\"“(]?[{_LATIN}]", after)
    return bool(vowel) or _PART.match(after) is not None


def _is_initial(text: str, start: int) -> bool:
    """Whether a letter may belong to a name inside a sentence: C. elegans, Robert B. Parker."""
    before, after = text[max(0, start - 40):start], text[start + 1:start + 4]
    line = text.rfind("\n", 0, start) + 1
    inside = _ALONE.fullmatch(text, line, start) is None
    return inside and bool(re.match(r"\. [a-z]", after) or (
        re.search(r"[A-Z][a-z]+ \Z", before) and re.match(r"\. [A-Z]", after)))


def _is_line(text: str, start: int) -> bool:
    """Whether a letter and marks are all there is in its line."""
    first, last = text.rfind("\n", 0, start) + 1, text.find("\n", start)
    return (_ALONE.fullmatch(text, first, start) is not None and
            _REST.fullmatch(text, start + 1, len(text) if last < 0 else last) is not None)


def _is_complete(text: str, place: Place) -> bool:
    """Whether what follows a letter in a truncated text leaves it as it is: neither the rest of a
    word, nor "or C", nor the other options of a list that it begins.
    """
    after = text[place.start + 1:]
    words = _STATED.search(text[max(0, place.start - 100):place.start])
    gap = words["gap"] if words else ""
    if place.letter == "A" and not _LINKED.search(gap) and (
            _NEXT.match(after) or not re.match(r"[^\n]*\n\s*\S", after)
            or (not words and after[:1] in ".):")):
        return False  # the first of all options
    if _OVER.match(after):
        return True
    ends = gap or re.search(r"[.。!?\n]", after)  # "The answer B" may be wrong
    return bool(ends and _MORE.match(after)) and _JOINT.fullmatch(after) is None


def _listed(text: str) -> set[int]:
    """Positions of the letters that begin options listed below each other, or side by side."""
    found, start, above = set(), 0, None
    for line in text.splitlines(keepends=True):
        heads = [(head[1], start + head.start(1)) for head in _HEADS.finditer(line)]
        pairs = zip(heads, heads[1:], heads[2:], strict=False)
        found |= {one[1] for one, two, three in pairs
                  if _follows(one[0], two[0]) and _follows(two[0], three[0])}
        own = heads[0] if heads and heads[0][1] - start <= FRONT else None
        if above and own and _follows(above[0], own[0]):
            found |= {above[1], own[1]}
        above = own if line.strip() else above
        start += len(line)
    return found


def _follows(letter: str, other: str) -> bool:
    return ord(other) == ord(letter) + 1


def _joined(text: str, places: list[Place], first: int) -> set[str]:
    """The letter of a place with those that are joined to it: "A or B"."""
    letters = {places[first].letter}
    for one, other in zip(places[first:], places[first + 1:], strict=False):
        if not _JOINT.fullmatch(text, one.start + 1, other.start):
            break
        letters.add(other.letter)
    return letters
