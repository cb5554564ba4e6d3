"""Attacks on the rule language: known ways out of Python sandboxes, and texts at random.

Nothing of a text may run, nothing may hang, and no error but `RuleError` may come of it.
"""

import builtins
import gc
import os
import random
import subprocess
import sys
from itertools import islice
from time import thread_time

import pytest

from chopmark.codes import Codes
from chopmark.errors import RuleError
from chopmark.expressions import MAX_LENGTH
from chopmark.rules import Effects, RuleBook
from chopmark.rules.book import effects_text
from chopmark.rules.code import RuleCode
from chopmark.rules.orders import ListChanged, RuleDrafted
from chopmark.testing.oracle import evaluate
from chopmark.times import EPOCH
from tests.rules.rule_texts import LANGUAGE, LISTS, SLOWEST_SECONDS, check, fuzz, rows, texts

# CANARY stands for a statement's worth of harm: it would make a file.
ESCAPES = [
    # Walks from a constant to all classes.
    "().__class__.__bases__[0].__subclasses__()",
    "''.__class__.__mro__[1].__subclasses__()[40]('CANARY', 'w') == ''",
    "[].__class__.__base__.__subclasses__()[104]().load_module('os').system('touch CANARY') == 0",
    "{}.__class__.__bases__[0].__subclasses__()[59].__init__.__globals__['sys'] == 1",
    "(1).__class__.__mro__[-1] == 1",
    "(0.0).__class__.__base__.__subclasses__() == 0",
    "True.__class__.__base__.__base__.__subclasses__() == 0",
    "amount_usd.__class__ == 1",
    "user.__class__.__mro__[1].__subclasses__()",
    "missing.__globals__['__builtins__']['eval']('1') == 1",
    "missing.__self__.__import__('os').system('touch CANARY') == 0",
    "missing(().__class__)",
    "(lambda: 0).__globals__ == 0",
    "(lambda: 0).__code__.__class__ == 0",
    "__builtins__['__import__']('os').system('touch CANARY') == 0",
    "__builtins__.open('CANARY', 'w') == 0",
    "abs.__call__(1) > 0",
    "min.__doc__ == ''",
    # Calls that are not in the tables.
    "__import__('os').system('touch CANARY') == 0",
    "__import__('pathlib').Path('CANARY').touch() == 0",
    "__import__('subprocess').run(['touch', 'CANARY']) == 0",
    "eval('__import__(\"os\").system(\"touch CANARY\")') == 0",
    "exec('open(\"CANARY\", \"w\")')",
    "compile('1', '', 'eval') == 0",
    "open('CANARY', 'w') == 0",
    "getattr(user, 'up' + 'per')() == 'A'",
    "getattr(getattr(1, '__class__'), '__base__') == 1",
    "setattr(user, 'a', 1)",
    "vars(user)",
    "dir() == 1",
    "globals()['__builtins__'] == 1",
    "locals() == 1",
    "type(user) == 1",
    "type('X', (), {'__del__': 1}) == 1",
    "breakpoint()",
    "input() == ''",
    "exit()",
    "help(user)",
    "print('CANARY') == 0",
    "object() == 1",
    "str(user) == 'a'",
    "isinstance(user, 1)",
    "memoryview(b'a') == 1",
    "list(user) == 1",
    "user in list(user)",
    "user in list('cities', 'empty')",
    "user in list(list('cities'))",
    "user in list('cities').__class__",
    # Methods, items, formats.
    "user.format(user) == ''",
    "'{0.__class__.__init__.__globals__}'.format(user) == ''",
    "'%s' % user == ''",
    "f'{user}' == ''",
    "f'{().__class__}' == ''",
    "f'{__import__(\"os\").system(\"touch CANARY\")}' == ''",
    "f\"{open('CANARY', 'w')!r:>{10}}\" == ''",
    "user.join(['a']) == ''",
    "user[0] == 'a'",
    "user[::-1] == 'a'",
    "user[user:user:user] == 'a'",
    "{'a': 1}['a'] == 1",
    "b'a' == b'a'",
    "b'a'.decode() == 'a'",
    # Functions, bindings and loops.
    "(lambda: True)()",
    "(lambda x: x)(vip)",
    "lambda: vip",
    "(x := vip)",
    "[x := 1, vip][1]",
    "[vip for x in (1, 2)][0]",
    "[x for x in ().__class__.__base__.__subclasses__() if x.__name__ == 'Popen'] == 1",
    "{x for x in (1, 2)} == 1",
    "{x: x for x in (1, 2)} == 1",
    "(x for x in (1, 2)).gi_frame.f_back.f_globals == 1",
    "(x for x in (1,)).gi_code == 1",
    "any(vip for x in (1, 2))",
    "min(*(1, 2)) > 0",
    "min(**{'a': 1}) > 0",
    "missing(x=1)",
    "abs(*[1]) > 0",
    "(*user,) == 1",
    "[*user] == 1",
    "{**{}} == 1",
    "(yield vip)",
    "(yield from user)",
    "await vip",
    "(await vip)",
    # Statements and several lines.
    "import os",
    "vip; import os",
    "vip\nimport os",
    "vip\n\n__import__('os')",
    "del vip",
    "vip = True",
    "amount_usd += 1",
    "@vip\ndef f(): pass",
    "class A: pass",
    "while True: pass",
    "with open('CANARY', 'w'): pass",
    "raise vip",
    "assert vip",
    "global vip",
    "vip if vip",
    "match vip:\n case _: pass",
    "try: pass\nexcept: pass",
    # Work without end.
    "9**9**9 > 0",
    "amount_usd ** 9 > 0",
    "1 << 10**10 > 0",
    "'a' * 10**10 == ''",
    "10**10**10**10 == 1",
    "'a' * 4000000000 == user",
    "amount_usd // 1 > 0",
    "amount_usd > " + "9" * 3_000,
    "amount_usd > 0x" + "f" * 3_000,
    "amount_usd > 1e999",
    "amount_usd > -1e999",
    "amount_usd > 1e400 - 1e400",
    "amount_usd > 1j",
    "vip" * 1_300,
    "a" * MAX_LENGTH + "a",
    "(" * 2_000,
    "(" * 1_000 + "vip" + ")" * 1_000,
    "[" * 190 + "]" * 190,
    "{" * 190 + "}" * 190,
    "not " * 990 + "vip",
    "-" * 3_900 + "1 > 0",
    "~" * 3_900 + "1 > 0",
    "1" + " + 1" * 900 + " > 0",
    "user" + ".a" * 1_900,
    "user" + "[0]" * 1_000,
    "missing" + "()" * 1_000,
    "lambda: " * 400 + "vip",
    "vip if vip else " * 240 + "vip",
    "coalesce(" * 180 + "vip" + ", vip)" * 180,
    "f'{" * 40 + "1" + "}'" * 40,
    "abs(" * 199 + "1" + ")" * 199 + " > 0",
    "for " * 900,
    # Regular expressions that are not RE2's.
    "matches(user, '(?<=a)b')",
    "matches(user, '(a)\\\\1')",
    "matches(user, '(?P<x>a)(?P=x)')",
    "matches(user, '(?>a+)b')",
    "matches(user, '((a{100}){100}){100}')",
    "matches(user, 'a{1001}')",
    "matches(user, '" + "(" * 150 + "')",
    "matches(user, '" + "a" * 201 + "')",
    "matches(user, user)",
    "matches(user, '\\ud800')",
    "matches('" + "a" * 3_000 + "', '(a+)+$')",
    # Letters that look like others, and letters that nobody sees.
    "\0",
    "vip\0",
    "user == 'a\0b'",
    "vip\x1a and vip",
    "\ud800",
    "user == '\ud800'",
    "vip\u200b",
    "vip\u202e and vip",
    "\u0430mount_usd > 0",  # a Cyrillic letter
    "amount_usd \uff1e 0",  # a wide `>`
    "vip \uff41nd vip",
    "\uff45val('1')",  # which Python reads as `eval`
    "\ufe4d\ufe4dimport\ufe4d\ufe4d('os') == 0",  # which Python reads as `__import__`
    "\U0001d4ee\U0001d4ff\U0001d4ea\U0001d4f5('1')",
    "user.\uff3f_class__ == 1",
    "vip \\",
    "'''vip",
    "user == '\\N{NO SUCH NAME}'",
    "user == '\\x'",
    "",
    " \n\t ",
    "...",
    "None",
    "NotImplemented",
    "__debug__",
    "Ellipsis == 1",
    "vip is True",
    "vip == vip is vip",
    "user in user",
    "user in ()",
    "user in ('a', user)",
    "user in ('a', ('a',))",
    "user in {'a': 1}",
    "amount_usd",
    "user",
    "event_type + user == 'a'",
    "amount_usd + vip > 0",
    "vip & vip",
    "vip @ vip",
]  # fmt: skip

HARMLESS = [
    "issuer == \"__import__('os').system('touch CANARY')\"",
    "issuer == '{0.__class__}'",
    "issuer in ('eval(1)', 'exec(1)')",
    "issuer == 'touch ' 'CANARY'",
    "matches(issuer, '(a+)+$')",
    "matches(issuer, '(a|aa)+$') or matches(issuer, '(.*a){20}$')",
    "matches(issuer, '^(([a-z])+.)+[A-Z]([a-z])+$')",
    "issuer == '\\ud800'",
    "issuer == '\\N{BULLET}'",
    "issuer == '\\0'",
    "\uff41mount_usd > 0",  # Python reads wide letters as others: the name is known
    "vip # and __import__('os')",
    "(vip\n\n\n and\n\x0c vip)",
    "amount_usd > 0xff and amount_usd < 1_000.0e2",
    "amount_usd % -0.0 == 0 or amount_usd / 0 > 1",
    "exp(exp(exp(exp(amount_usd + 1e299)))) > 0",
    "missing(None)",
    "True",
    "vip" + " and vip" * 490,
    "1" + " < 1" * 900,
    "amount_usd in (" + "1," * 1_900 + ")",
    "user in (" + "'a'," * 900 + ")",
    "not " * 50 + "vip",
    "(" * 60 + "vip" + ")" * 60,
    "vip" + " == vip" * 400,
    "user in list('cities')" + " and user in list('cities')" * 100,
]


@pytest.fixture(scope="module", autouse=True)
def _measured_alone():
    """What other tests left behind is not looked through while texts are timed."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def book():
    found = RuleBook(LANGUAGE, Codes(b"book"))
    for name, members in LISTS.items():
        found.apply(
            ListChanged(
                id=name, happened_at=EPOCH, list_name=name, added=tuple(members), author="ann"
            )
        )
    return found


def order(text):
    return RuleDrafted(
        id="o", happened_at=EPOCH, rule="r", version=1, when=text, because="why not",
        effects=effects_text(Effects(deny=True)), author="ann",
    )  # fmt: skip


class Canary:
    """Notices whatever runs while a call is made: code that was a text, modules, the shell."""

    forbidden = (
        builtins.eval, builtins.exec, builtins.open, builtins.__import__, builtins.input,
        builtins.breakpoint, os.system, os.popen,
    )  # fmt: skip

    def __init__(self):
        self.sang = []

    def watch(self, call):
        def notice(frame, event, what):
            if event == "call" and frame.f_code.co_name == "<module>":
                # What a text and what a module is called while it runs.
                self.sang.append(frame.f_code.co_filename)
            elif event == "c_call" and what in self.forbidden:
                self.sang.append(what.__name__)
            elif event == "call" and frame.f_code is subprocess.Popen.__init__.__code__:
                self.sang.append("Popen")

        before = sys.getprofile()
        sys.setprofile(notice)
        try:
            return call()
        finally:
            sys.setprofile(before)


@pytest.mark.parametrize(
    "harm",
    [
        lambda: eval("1"),  # noqa: S307
        lambda: eval(compile("1", "a", "eval")),  # noqa: S307
        lambda: exec(""),  # noqa: S102
        lambda: __import__("os"),
        lambda: os.popen("true").close(),
        lambda: open(os.devnull).close(),
    ],
)
def test_the_canary_sings_when_something_runs(harm):
    canary = Canary()
    canary.watch(harm)
    assert canary.sang


def refusal(call, text):
    """What is said, or None; within the time that a text may take."""
    began = thread_time()
    try:
        call(text)
        said = None
    except RuleError as error:
        said = str(error)
    assert thread_time() - began < SLOWEST_SECONDS
    return said


def named(text):
    return ascii(text[:40])


@pytest.mark.parametrize("text", ESCAPES, ids=named)
def test_ways_out_of_a_sandbox_are_refused(text, book, tmp_path):
    file = tmp_path / "canary"
    text = text.replace("CANARY", str(file))
    canary = Canary()
    for call in (check, lambda text: book.check(order(text))):
        assert refusal(call, text), "accepted"
        canary.watch(lambda call=call: refusal(call, text))
    assert not canary.sang
    assert not file.exists()


@pytest.mark.parametrize("text", HARMLESS, ids=named)
def test_what_only_looks_like_harm_is_a_rule_like_others(text, book, tmp_path):
    file = tmp_path / "canary"
    text = text.replace("CANARY", str(file))
    assert refusal(lambda text: book.check(order(text)), text) is None
    canary, found = Canary(), {}

    def run():
        condition = check(text)
        code = RuleCode([condition], LANGUAGE.kinds, LISTS, Codes(b"attack"))
        for row in rows(random.Random(0), 20):
            truth = code.row([row[name] for name in code.inputs]).rules == [0]
            if not condition.outside:
                found[str(row)] = truth, evaluate(text, row) is True

    run()  # compiles what numba has to
    found.clear()
    canary.watch(run)
    assert not canary.sang
    assert all(ours == oracles for ours, oracles in found.values())
    assert not file.exists()


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a*)*b$", "(.*a){20}$", "a?" * 60 + "$"])
def test_no_pattern_makes_a_long_text_slow(pattern):
    code = RuleCode([check(f"matches(issuer, '{pattern}')")], LANGUAGE.kinds, LISTS, Codes(b"a"))
    long = "a" * 100_000 + "!"
    code.row(["a"])
    began = thread_time()
    code.row([long])
    assert thread_time() - began < SLOWEST_SECONDS


@pytest.mark.parametrize("words", [1, 2, 20, 2_000])
def test_no_names_are_slow_to_compare(words):
    rng = random.Random(words)
    long = [
        " ".join("".join(rng.choices("abcd", k=20_000 // words)) for _ in range(words))
        for _ in range(2)
    ]
    asked = "name_similarity(user, issuer) > 2 or address_similarity(user, issuer) > 2"
    code = RuleCode([check(asked)], LANGUAGE.kinds, LISTS, Codes(b"a"))
    assert code.inputs == ("issuer", "user")
    code.row(["a", "b"])
    began = thread_time()
    assert code.row(long).rules == []
    assert thread_time() - began < SLOWEST_SECONDS


def test_texts_at_random_are_refused_or_mean_what_the_oracle_says():
    found = fuzz(islice(texts(seed=4), 20_000), seed=4)
    assert not found.wrong[:5]
    assert found.accepted + found.refused == 20_000
    assert found.accepted > 2_000
    assert found.judged > 1_000
    assert found.slowest_seconds < SLOWEST_SECONDS, found.slowest
