from chopmark.datasets import SCHEMA


def test_the_entities_of_the_exchange():
    kinds = {field.entity for field in SCHEMA.fields.values()} - {None}
    assert kinds == {
        "user",
        "device",
        "ip",
        "card",
        "bank_account",
        "screen_resolution",
        "ssn",
        "address",
        "merchant",
    }
    assert all("user" in fields for fields in SCHEMA.fields_of.values())


def test_personal_data_is_marked():
    marked = {name for name, field in SCHEMA.fields.items() if field.personal}
    assert marked == {
        "name",
        "profile_name",
        "registrant_name",
        "holder_name",
        "home_address",
        "billing_address",
        "ssn",
        "card",
        "bank_account",
    }
    assert {name for name, field in SCHEMA.fields.items() if field.identifier} == {
        "ssn",
        "card",
        "bank_account",
    }


def test_amounts_are_whole_cents():
    assert SCHEMA.fields["amount_usd"].decimals == 2
