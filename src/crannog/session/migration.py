"""Which generated values survive an update of the session (reference, 2.7)."""

from __future__ import annotations

from crannog.session.document import Migrate, Secret, SecretKind


def keeps_value(old: Secret, new: Secret) -> bool:
    """Whether the value generated for `old` is also the value of `new`, of the next version.

    The same name, kind and size keep the value of ascii and binary secrets. Private keys keep
    theirs only where both versions say `migrate: true` and ask for the same type. Certificates are
    always issued anew. `migrate: never`, in either version, ends it; an explicit value is not
    generated, so nothing migrates from or to one. Languages may differ.
    """
    if (old.name, old.kind) != (new.name, new.kind):
        return False
    if old.value is not None or new.value is not None:
        return False
    if Migrate.NEVER in (old.migrate, new.migrate):
        return False
    match new.kind:
        case SecretKind.ASCII | SecretKind.BINARY:
            return old.size == new.size
        case SecretKind.PRIVATE_KEY:
            both = old.migrate is new.migrate is Migrate.ALWAYS
            return both and old.key_type is new.key_type
        case SecretKind.X509:
            return False
