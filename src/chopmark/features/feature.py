"""A feature is a function from an entity's past to a value.

There are few kinds, and each is one frozen record that says what it means and nothing of
how it is computed:

    Aggregate   an operation over the events of an entity in a window
    Lookup      the latest known value of a field
    LabelRate   how many of an attribute's holders were labelled bad, as far as known
    Derived     an expression over other features and the fields of the event at hand
    Similarity  how alike two texts are, such as the name on a card and on an ID
    Sequence    the last events of an entity, in order, for a model that reads them as a list

Their names are computed from the declaration (``purchase_amount_usd_sum_7d``), so that a
name can be trusted. `chopmark.features.catalog` compiles them together, and
`chopmark.features.fold` is their one execution, for training and serving alike.

Reading rule, without exception: a feature of an event is its value **before** the event is
added, over what was known then.
"""

EVERYONE = "everyone"
"""An entity that every event touches: aggregates by it are over all events."""


def slug(text: str) -> str:
    """A text as part of a feature's name.

    Examples
    --------
    >>> slug("rail == 'card' and amount_usd >= 100")
    'rail_eq_card_and_amount_usd_ge_100'
    """
    words = {"==": " eq ", "!=": " ne ", ">=": " ge ", "<=": " le ", ">": " gt ", "<": " lt "}
    words |= {"+": " plus ", "-": " minus ", "*": " times ", "/": " per "}
    for symbol, word in words.items():
        text = text.replace(symbol, word)
    kept = "".join(letter if letter.isalnum() else " " for letter in text)
    return "_".join(kept.lower().split())
