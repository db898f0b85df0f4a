"""`devbox schema`: the contract of the Devboxfile, in one piece, for editors that complete and explain."""

from devbox import ui


def schema() -> None:
    """Print the Devboxfile's JSON Schema, for editors."""
    from devbox.config import contract

    ui.emit_json(contract.bundled("devboxfile"))
