"""What the wording of an English request gives away: each function returns the words that betray it, or None.

Closed lists of words and short windows, no model. They are meant to be right when they speak rather than to speak
often: a text in another language, or a construction they do not know, passes.
"""

from __future__ import annotations

import re

_WINDOW = r"[^.?!;]{0,60}"
_ANSWER = r"(?:(?:response|answer|completion|option|output|text|assistant|model)s?|reply|replies|summary|summaries)"
_THE_ONE = rf"(?:{_ANSWER}|the\s+one)"
_WHICH = rf"which(?:\s+of)?(?:\s+(?:the|these|those))?(?:\s+two)?(?:\s+assistant)?(?:\s+(?:{_ANSWER}|one))?"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def _plain(text: str) -> str:
    """One line with straight apostrophes, emphasis marks taken off."""
    return " ".join(text.replace("’", "'").replace("*", "").split())


# Two questions in one.

_DEGREE = r"(?:(?:more|most|less|least|as|very|too)\s+|\w+ly\s+){0,2}"
_QUALITY = rf"{_DEGREE}[\w'-]+"
_LIST = rf"(?P<first>{_QUALITY})(?:,\s+{_QUALITY}){{1,9}},?\s+and\s+{_QUALITY}"
_QUALITIES = _pattern(
    rf"\b(?:is|are|be|being|sounds?|seems?|(?<!such\s)as|more|most|less|least|in\s+terms\s+of)\s+(?:the\s+)?(?:as\s+|most\s+)?{_LIST}"
)
_KIND_OF = _pattern(
    rf"\b(?:an?|the|most)\s+{_LIST}(?:\s+(?:and\s+)?[\w'-]+)?\s+(?:person|friend|way|manner|tone|style|{_ANSWER})\b"
)
_MORE = (
    r"(?:(?:more|less|most|least)\s+(?:\w+ly\s+)?(?!and\b)[\w'-]+|better|worse|kinder|safer|clearer|warmer|nicer|calmer|"
    r"shorter|longer|simpler|friendlier|gentler|fairer|truer|wiser|politer|briefer|easier)"
)
_TWO_DEGREES = _pattern(rf"\b{_MORE}(?:\s+[\w'-]+)?(?:,|,?\s+and|,?\s+but)\s+{_MORE}\b")
_DOES = (
    r"(?:is|are|has|avoids|offers|gives|provides|shows|explains|respects|refuses|declines|admits|helps|says|tells|keeps|"
    r"makes|uses|suggests|asks|encourages|promotes|demonstrates|treats|sounds|protects|contains|includes|stays|speaks|"
    r"supports|answers|addresses|considers|acknowledges|leaves|states|warns|names|points|steers|guides|cites|"
    r"doesn't|does\s+not)"
)
_TWO_CLAUSES = _pattern(
    rf"\b(?:{_WHICH}|that|who)\s+(?:\w+ly\s+)?\w+s\b"
    rf"{_WINDOW}{_WINDOW}(?<!\bdoes)\s+(?:and|but)\s+(?:also\s+|that\s+|which\s+|\w+ly\s+)?{_DOES}\b"
)
_AND_ALSO = _pattern(
    r"[.?!]\s+(?:also|furthermore|moreover|additionally|in addition|however|above all|besides|(?:please )?do not|"
    r"don't)\b[^.?!]{0,40}"
)
_HELPFUL_AND_HARMLESS = _pattern(
    r"\bhelpful(?:ness)?\b[^.?!;]{0,20}\band\b[^.?!;]{0,12}\b(?:harmless|safe)\w*|"
    r"\b(?:harmless|safe)\w*\b[^.?!;]{0,20}\band\b[^.?!;]{0,12}\bhelpful(?:ness)?\b"
)


def two_questions(text: str) -> str | None:
    """A request for one verdict on several things: a list of qualities, two degrees, two clauses, a second demand."""
    text = _plain(text)
    for pattern in (_QUALITIES, _KIND_OF, _TWO_DEGREES, _TWO_CLAUSES, _AND_ALSO, _HELPFUL_AND_HARMLESS):
        for match in pattern.finditer(text):
            if not _things(match.groupdict().get("first")):
                return match.group().strip(" .?!")
    return None


def _things(item: str | None) -> bool:
    """Whether a list begins with a plural: it names things ("sources, examples and links"), not qualities."""
    return item is not None and item.endswith("s") and not item.endswith(("ous", "ss", "less"))


# Asking for what an answer is not.

_NOT = (
    r"(?:does\s+not|doesn't|do\s+not|don't|is\s+not|isn't|are\s+not|aren't|has\s+no|lacks?|avoids?|fails?\s+to|never)"
)
_LESS = r"(?:less|least)\s+(?!than\b)"
_NEGATIVE = (
    _pattern(rf"\b{_WHICH}\s+(?:\w+ly\s+)?{_NOT}\b"),
    _pattern(rf"\b{_WHICH}\s+(?:\w+s\s+)?{_LESS}\w+"),
    _pattern(rf"\b{_THE_ONE}\s+(?:that|which|who)\s+(?:\w+ly\s+)?{_NOT}\b"),
    _pattern(rf"\b{_THE_ONE}\s+(?:that's|(?:that|which|who)(?:\s+\w+s)?)\s+{_LESS}\w+"),
    _pattern(rf"\bthe\s+{_LESS}\w+"),
    _pattern(r"\b(?:do\s+not|don't|never|avoid)\s+(?:choos|pick|select|prefer)\w*"),
    _pattern(r"(?:^|[.?!;]\s+)(?:please\s+)?(?:do\s+not|don't|never)\s+\w+"),
    _pattern(
        rf"(?:(?:^|[.?!;]\s+)(?:it|they)|\b(?:the\s+)?(?:{_ANSWER}|ai))\s+(?:should|must|shall|may|ought\s+to)"
        r"(?:n't|\s+not|\s+never|\s+avoid)\b"
    ),
)


def negative(text: str) -> str | None:
    """A request for the answer that does *not* do something, or does less of it."""
    text = _plain(text)
    found = [match for pattern in _NEGATIVE if (match := pattern.search(text))]
    return min(found, key=lambda match: match.start()).group().strip(" .?!") if found else None


# An invitation to preach.

_UNWANTED = _pattern(
    r"\b(?:not|never|no|nor|without|avoid\w*|rather than|instead of|refrain\w*|less|least|free of|stop\w*|\w+n't|"
    r"over one)\b[^.?!;]{0,60}$"
)
_USER = r"(?:human|user|person asking)"
_BAD = (
    r"(?:harmful\w*|problematic|offensive|immoral\w*|unethical|toxic\w*|prejudice\w*|bias\w*|racis\w*|sexis\w*|malicious|"
    r"bad\s+(?:intent\w*|character))"
)
_POINT_OUT = (
    r"(?:point\w*\s+out|call\w*\s+(?:out|attention)|identif\w+|address\w*|highlight\w*|critici\w+|confront\w*|"
    r"correct\w*)"
)
_SCOLD = _pattern(
    r"\b(?:lectur(?:e|es|ing)|scold\w*|morali[sz]\w+|preach\w*|admonish\w*|chastis\w+|reprimand\w*|rebuk\w+|condemn\w*|"
    r"denounc\w+|berat\w+|reproach\w*|accus(?:e|es|ing|atory)|call(?:s|ing)?\s+out|sham(?:e|es|ing)\s+(?:the|them|him|her))\b"
)
_ACCUSE = (
    _pattern(rf"\b{_POINT_OUT}\b[^.?!;]{{0,40}}\b{_BAD}\b[^.?!;]{{0,30}}\b(?:in|from|of|by)\s+the\s+{_USER}\b"),
    _pattern(rf"\b{_POINT_OUT}\b[^.?!;]{{0,20}}\bthe\s+{_USER}'s\b[^.?!;]{{0,20}}\b{_BAD}\b"),
    _pattern(
        rf"\bwhether\s+the\s+{_USER}\s+(?:is|was)\b[^.?!;]{{0,20}}\b(?:deliberate|intentional|trying|attempting|bait|malicious)\w*"
    ),
    _pattern(
        r"\b(?:tell|explain|remind|inform|warn|let)s?\b[^.?!;]{0,40}\b(?:(?:is|are|was|were|be|being)\s+(?:morally\s+wrong|"
        r"immoral|unethical|shameful|selfish|sinful|evil|a\s+bad\s+person)|why\s+(?:it|that|this|what\s+they\s+\w+|"
        r"(?:the|their)\s+(?:request|question|behaviou?r|plan|wish|intention))\s+(?:is|was)\s+wrong)\b"
    ),
)


def preachy(text: str, *, asks_for_faults: bool = False) -> str | None:
    """Words that invite an answer to scold, or to accuse the user.

    Args:
        text: the request.
        asks_for_faults: the request asks what is bad about an answer, so that naming scorn there does not invite it.
    """
    text = _plain(text)
    for pattern in _ACCUSE if asks_for_faults else (*_ACCUSE, _SCOLD):
        for match in pattern.finditer(text):
            if not _UNWANTED.search(text[max(0, match.start() - 80) : match.start()]):
                return match.group()
    return None


# No choice asked for.

_ENGLISH = _pattern(r"\b(?:the|that|should|must|and|are|does|be|response|answer|assistant|ai)\b")
_CHOICE = (
    _pattern(rf"\bwhich\s+(?:of|one|{_ANSWER})\b"),
    _pattern(r"\b(?:which|whose|better|best)\b[^.!]{0,300}\?"),
    _pattern(rf"\b(?:choose|select|pick|prefer|favou?r)\b[^.?!]{{0,80}}\b(?:{_ANSWER}|one)\b"),
    _pattern(
        r"\b\(?[A1]\)?\s+or\s+(?:response\s+|answer\s+)?\(?[B2]\b|\bfirst\s+or\s+(?:the\s+)?second\b|\bone\s+or\s+the\s+other\b"
    ),
)


def asks_no_choice(text: str) -> str | None:
    """The whole text when it is English and does not ask which of two answers: a statement, a yes-or-no question."""
    text = _plain(text)
    if not _ENGLISH.search(text) or any(pattern.search(text) for pattern in _CHOICE):
        return None
    return text
