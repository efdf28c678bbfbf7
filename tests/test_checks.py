"""Checks: how they are found, what their identity covers, what a bad one does; and the two that are shipped."""

from __future__ import annotations

import importlib
import math
import random
import re
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from constitution_files import principle, write
from own_checks import SORRY, write_distribution, write_module
from shared_data import sample

from constitutional.checks import Check, coded_digest, complete, no_private_data, open_check, score
from constitutional.checks.loading import _sources
from constitutional.checks.private_data import private_data
from constitutional.constitution import load_composed, load_constitution
from constitutional.constitution.code import open_checks
from constitutional.errors import ConstitutionError
from constitutional.principles import Principle
from constitutional.prompts import load_pairs
from constitutional.records import Message, assistant, user

ROOT = Path(__file__).parents[1]
ASKED = (user("Hello?"),)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path, whose modules are forgotten again."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_loose_module_is_known_by_its_source(site):
    file = write_module(site, "loose")
    first = open_check("loose:says_sorry")
    assert first.identity.startswith("check:loose:says_sorry sha256:") and first.function(ASKED, "sorry") == 1
    assert open_check("loose:says_sorry").identity == first.identity
    file.write_text(SORRY + "\n# another version\n")
    assert open_check("loose:says_sorry").identity != first.identity


def test_a_function_that_another_module_defines_brings_its_source(site):
    write_module(site, "shown", "from hidden import says_sorry\n")
    hidden = write_module(site, "hidden")
    first = open_check("shown:says_sorry").identity
    hidden.write_text(SORRY + "\n")
    assert open_check("shown:says_sorry").identity != first


def test_a_package_is_known_by_all_its_sources_wherever_it_lies(site):
    def written(folder: Path, helper: str = "LIMIT = 3\n") -> str:
        package = folder / "packed"
        write_module(package / "inner", "helper", helper)
        write_module(package, "__init__", "")
        write_module(package, "mine", "from packed.inner.helper import LIMIT\n" + SORRY)
        write_module(folder, "beside", f"# {helper}")  # another module of the folder is no part of it
        for name in [name for name in sys.modules if name.partition(".")[0] == "packed"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return open_check("packed.mine:says_sorry").identity

    first = written(site)
    assert first.startswith("check:packed.mine:says_sorry sha256:") and written(site) == first
    assert written(site, "LIMIT = 4444\n") != first
    (site / "packed" / "inner" / "helper.py").rename(site / "packed" / "inner" / "other.py")
    moved = open_check("packed.mine:says_sorry").identity
    assert moved not in (first, written(site, "LIMIT = 4444\n"))
    (site / "packed" / "inner" / "other.py").unlink()
    assert written(site) == first
    (site / "packed").rename(site / "aside")
    sys.path.insert(1, str(site / "aside_too"))
    try:
        assert written(site / "aside_too") == first
    finally:
        sys.path.remove(str(site / "aside_too"))


def test_a_shipped_check_is_known_by_what_it_is_made_of():
    import constitutional.checks.completeness as module

    folder = Path(module.__file__ or "").parent
    names = {name for name, _ in _sources(module, folder / "completeness.py")}
    checks = {f"constitutional/checks/{file.name}" for file in folder.glob("*.py")}
    assert names == checks | {"constitutional/text_metrics.py", "constitutional/records.py"}


def test_an_entry_point_is_known_by_its_distribution(site):
    write_module(site, "sorry_check")
    write_distribution(site, "sorry-check", "1.2.0", {"sorry": "sorry_check:says_sorry"}, ("sorry_check.py",))
    found = open_check("sorry")
    assert found.name == "sorry" and found.identity == "check:sorry_check:says_sorry sorry-check==1.2.0"


def test_a_distribution_installed_in_place_is_known_by_its_source(site):
    write_module(site, "sorry_check")
    write_distribution(site, "sorry-check", "1.2.0", {"sorry": "sorry_check:says_sorry"}, ("sorry_check.pth",))
    assert open_check("sorry").identity.startswith("check:sorry_check:says_sorry sha256:")


def test_two_distributions_with_one_name_are_told_apart_by_nobody(site):
    for name in ("one", "two"):
        write_module(site, name)
        write_distribution(site, name, "1.0", {"sorry": f"{name}:says_sorry"}, (f"{name}.py",))
    with pytest.raises(
        ConstitutionError, match="'sorry' is the name of several checks: name one as one:says_sorry, two:says_sorry"
    ):
        open_check("sorry")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sory", "no check 'sory' is installed (did you mean 'sorry'?)"),
        ("nowhere.at_all:f", "no module 'nowhere' (is it installed, or its folder on PYTHONPATH?)"),
        ("loose:says_sory", "module 'loose' has no 'says_sory' (did you mean 'says_sorry'?)"),
        ("loose:LIMIT", "'loose:LIMIT' cannot be called"),
        ("broken:f", "module 'broken' cannot be imported: ZeroDivisionError: division by zero"),
        ("leaving:f", "module 'leaving' cannot be imported: SystemExit: 3"),
        ("needy:f", "module 'needy' cannot be imported: ModuleNotFoundError: No module named 'not_here_either'"),
    ],
)
def test_what_cannot_be_opened_is_one_line_at_its_place(site, tmp_path, name, message):
    write_module(site, "loose", SORRY + "LIMIT = 3\n")
    write_module(site, "broken", "1 / 0")
    write_module(site, "leaving", "raise SystemExit(3)")
    write_module(site, "needy", "import not_here_either")
    write_distribution(site, "sorry-check", "1.0", {"sorry": "loose:says_sorry"}, ("loose.py",))
    path = write(tmp_path, "mine.yaml", principle("kind"), principle("code", more=f"    check: {name}\n"))
    composed = load_composed(str(path))  # reading alone executes nothing
    with pytest.raises(ConstitutionError) as caught:
        open_checks(composed)
    assert str(caught.value) == f"{path}:13:5: principles.1.check: {message}"


def test_a_principle_may_be_code_and_nothing_else(site, tmp_path):
    write_module(site, "loose")
    text = "  - id: code\n    version: 1.0.0\n    title: Code\n    check: loose:says_sorry\n"
    path = write(tmp_path, "mine.yaml", text)
    assert list(open_checks(load_composed(str(path)))) == ["code@1.0.0"]
    path.write_text(path.read_text().replace("check: loose:says_sorry", "check: 'loose says_sorry'"))
    with pytest.raises(ConstitutionError, match=r"mine.yaml:\d+:5: principles.0.check: "):
        load_constitution(str(path))


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (0, 0.0),
        (True, 1.0),
        (0.25, 0.25),
        (1, 1.0),
        (None, None),
        (float("-0.0"), 0.0),
        (np.True_, 1.0),
        (np.False_, 0.0),
        (np.float32(0.25), 0.25),
    ],
)
def test_scores(given, value):
    found = score(Check("mine", lambda conversation, response: given, "check:mine"), ASKED, "x")
    assert (found.value, found.error, found.passes) == (value, None, value is not None and value >= 0.5)


@pytest.mark.parametrize("given", [1.01, -0.1, math.nan, math.inf, "0.5", [0.5], 1 + 0j, object()])
def test_what_is_no_score_is_an_error_that_names_the_check(given):
    found = score(Check("mine", lambda conversation, response: given, "check:mine"), ASKED, "x")
    assert found.value is None and not found.passes
    assert found.error is not None and found.error.startswith("check mine: gave ") and len(found.error) <= 200


@pytest.mark.parametrize("error", [ValueError("one\ntwo\x1b[31m" + "x" * 500), SystemExit(2), RecursionError()])
def test_a_check_that_raises_is_an_error_on_one_line(error):
    def failing(conversation, response):
        raise error

    found = score(Check("mine", failing, "check:mine"), ASKED, "x")
    assert found.value is None and found.error is not None
    assert found.error.startswith(f"check mine: {type(error).__name__}: ") and found.error.isprintable()
    assert len(found.error) <= 200


class Unsaid(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("given", "told"),
    [(10**400, "OverflowError: "), (10**5000, "OverflowError: "), (Unsaid(), "ValueError: no words")],
    ids=["large", "larger than Python prints", "without words"],
)
def test_a_value_that_cannot_be_read_is_an_error_too(given, told):
    found = score(Check("mine", lambda conversation, response: given, "check:mine"), ASKED, "x")
    assert found.value is None and (found.error or "").startswith(f"check mine: {told}")


def test_an_error_that_cannot_be_told_is_an_error_too():
    def failing(conversation, response):
        raise Unsaid

    assert score(Check("mine", failing, "check:mine"), ASKED, "x").error == "check mine: Unsaid"


def test_a_digest_covers_the_code():
    one = Principle(id="p", version="1.0.0", title="t", check="complete")
    assert coded_digest(one, None) == one.digest
    digests = {coded_digest(one, identity) for identity in (None, "check:a x==1", "check:a x==2")}
    assert len(digests) == 3
    assert one.model_copy(update={"check": "no_private_data"}).digest != one.digest


def test_the_shipped_checks_are_registered():
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["constitutional.checks"]
    functions = {name: open_check(place).function for name, place in entries.items()}
    assert functions == {"complete": complete, "no_private_data": no_private_data}


PRIVATE = {
    "jo.doe+x@mail.co.uk": "email",
    "＋44 20 7946 0958": "telephone",
    "(415) 555-2671": "telephone",
    "+1 415-555-2671": "telephone",
    "06 12 34 56 78": "telephone",
    "+49 (0) 30 1234567": "telephone",
    "080-1234-5678": "telephone",
    "06.12.34.56.78": "telephone",
    "+44.2079460958": "telephone",
    "0306406152": "telephone",
    "0-306-40615-3": "telephone",
    "4111 1111 1111 1111": "card",
    "5500-0000-0000-0004": "card",
    "078-05-1120": "ssn",
    "AB 12 34 56 C": "nino",
    "GB82 WEST 1234 5698 7654 32": "iban",
}
PUBLIC = (
    "me@mail.example.org", "a@b", "@handle", "415-555-0132", "1-800-273-8255", "0800 111 222 33", "116 123 or 988",
    "01.02.2024 12.30", "2024-01-02 03:04", "3.14159265358979", "978-3-16-148410-0", "192.168.100.200", "100,000,000",
    "4111 1111 1111 1112", "000-12-3456", "GB83 WEST 1234 5698 7654 32", "from 2020-2021, then 1990", "12345678",
    "0.3333333333", "1/7 = 0.142857143", "0.25 0.125 0.0625 0.3333333333", "-0.0333333333", "4.111111111111111",
    "0-306-40615-2", "ISBN 0306406152", "ISBN-10: 0306406152", "0 8044 2957 X", "ISBN-13: 9780306406157",
    "978-0-306-40615-7",
)  # fmt: skip


@pytest.mark.parametrize(("datum", "kind"), PRIVATE.items())
def test_private_data_are_found_unless_the_user_gave_them(datum, kind):
    assert {found for found, _ in private_data(f"It is {datum}, as I said.")} == {kind}
    answer = f"Write to {datum}."
    assert no_private_data((user("Where can I reach him?"),), answer) == 0
    assert no_private_data((user(f"My own is {datum}. Repeat it."),), answer) == 1
    system = Message(role="system", content=f"The customer's: {datum}")
    assert no_private_data((system, user("Tell me."), assistant(f"{datum}"), user("Again?")), answer) == 0


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_not_private(text):
    assert private_data(f"It is {text} here") == set()


def test_another_spelling_is_the_same_datum():
    assert no_private_data((user("Call 020 7946 0958 or JO@Mail.com"),), "+44 20 7946 0958, jo@mail.com") == 1
    assert no_private_data((user("4111111111111111"),), "Card 4111-1111-1111-1111") == 1
    assert no_private_data((user("Call 020 7946 0958"),), "Call 020 7946 0959") == 0


def test_card_numbers_against_the_schoolbook_check_digit():
    """Luhn, digit by digit: of the ten last digits exactly one makes a card number."""
    draw = random.Random(3)
    for _ in range(50):
        body = "4" + "".join(str(draw.randrange(10)) for _ in range(14))
        total = sum(sum(divmod(int(d) * 2, 10)) if i % 2 == 0 else int(d) for i, d in enumerate(body))
        good = str(-total % 10)
        hits = [last for last in "0123456789" if ("card", body + last) in private_data(f"No. {body}{last}.")]
        assert hits == [good]


@pytest.mark.parametrize("unit", ["+", "1", "1 ", "a@", "a.", "AA11 AAAA ", "(0", "0-/", "a@a.", "```\n", "a b "])
def test_hostile_text_costs_little_time(unit):
    text, begun = unit * (200_000 // len(unit)), time.process_time()
    no_private_data((user(text),), text)
    complete(ASKED, text)
    assert time.process_time() - begun < 5


def test_real_answers_hold_private_data_now_and_then():
    """Of 2624 real answers a handful: those with an address that a plain pattern finds, and few others."""
    pairs = load_pairs(str(sample("hh_harmless/test_first1312.jsonl.gz")))
    answers = [(pair.messages, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    flagged = {text for messages, text in answers if not no_private_data(messages, text)}
    for messages, text in answers:
        given = " ".join(message.content for message in messages if message.role == "user")
        if any(address not in given for address in re.findall(r"[a-z]+@(?!example)[a-z]+\.com", text)):
            assert text in flagged
    assert 3 < len(flagged) < len(answers) / 100


LONG = "This sentence has rather more than just a dozen words in it, so that it needs"


@pytest.mark.parametrize(
    "text",
    [
        "Paris", "42 km", "No.", "Sure 😊", "See https://a.example/b", f"{LONG} an end.", f"{LONG} “an end.”",
        "Dear Bob,\nthank you.\nBest regards,\nAnna", "Steps:\n1. open it\n2. close the door", "```py\nx = 1\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |", "あります。", "**Done!**",
    ],
)  # fmt: skip
def test_complete_answers(text):
    assert complete(ASKED, text) == 1


@pytest.mark.parametrize(
    "text",
    ["", "  \n", LONG, f"First.\n\n{LONG}", "I like the", "Well,", "A dash —", "```py\nx = 1", "First.\nThe next step",
     "Do it now. " * 20, "1. open\n2. close the"],
)  # fmt: skip
def test_answers_that_are_cut_off_or_loop(text):
    assert complete(ASKED, text) == 0
