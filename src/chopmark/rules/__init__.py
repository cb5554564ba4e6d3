"""Rules: conditions in the one expression language, and what follows from them.

In come an event's values and what people ordered; out come the rules that are true, what they
want, and the truth of every leaf; and over history, what they were worth.
Serves rows F9, F12 and F13 of the requirements.
"""

from chopmark.rules.book import RuleBook, RuleHit, Ruling
from chopmark.rules.rule import Effects, Language, Rule

__all__ = ["Effects", "Language", "Rule", "RuleBook", "RuleHit", "Ruling"]
