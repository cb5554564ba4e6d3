"""The states of an account: what must be verified before money moves, declared.

    Account(
        State("new"),
        State("phone verified", needs=("phone",), permits=("purchase",)),
        State("identified", needs=("phone", "id"), permits=("purchase", "withdrawal")),
    )

An account is in the last state all of whose needs it meets. An event type that some state
permits is refused in a state that does not, and the answer says what to verify next; an event
type that no state names is nobody's business here. Serves C16 of the requirements.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from chopmark.errors import PolicyError


@dataclass(frozen=True, slots=True)
class State:
    """A state of an account.

    Parameters
    ----------
    name : str
    needs : tuple of str
        Verifications that lead here; those of every earlier state are among them.
    permits : tuple of str
        Event types that may happen here; those of every earlier state are among them.
    """

    name: str
    needs: tuple[str, ...] = ()
    permits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """The states in the order in which an account goes through them.

    Raises
    ------
    PolicyError
        If a state takes away a need or a permission of an earlier one, the first needs
        something, or two have one name.

    Examples
    --------
    >>> account = Account(State("new"), State("verified", ("phone",), ("purchase",)))
    >>> account.state_of(()).name, account.state_of(("phone", "id")).name
    ('new', 'verified')
    >>> account.missing("purchase", ())
    ('phone',)
    >>> account.missing("purchase", ("phone",)), account.missing("login", ())
    ((), ())
    """

    states: tuple[State, ...]

    def __init__(self, *states: State) -> None:
        object.__setattr__(self, "states", states)
        if not states or states[0].needs:
            raise PolicyError("expected a first state of an account that needs nothing")
        names = [state.name for state in states]
        if len(set(names)) < len(names):
            raise PolicyError(f"expected states of different names, got {', '.join(names)}")
        for earlier, later in pairwise(states):
            for what in ("needs", "permits"):
                lost = set(getattr(earlier, what)) - set(getattr(later, what))
                if lost:
                    raise PolicyError(
                        f"state `{later.name}` lacks `{sorted(lost)[0]}` in `{what}`, which "
                        f"`{earlier.name}` before it has"
                    )

    def state_of(self, verified: Collection[str]) -> State:
        """The state of an account with these verifications."""
        return next(state for state in reversed(self.states) if set(state.needs) <= set(verified))

    def missing(self, event_type: str, verified: Collection[str]) -> tuple[str, ...]:
        """What must still be verified before an event may happen; () if it may."""
        if event_type in self.state_of(verified).permits:
            return ()
        for state in self.states:
            if event_type in state.permits:
                return tuple(need for need in state.needs if need not in verified)
        return ()

    @property
    def verifications(self) -> frozenset[str]:
        """All that any state needs."""
        return frozenset(need for state in self.states for need in state.needs)
