//! The thin TLS frontend: passes handshake messages to a signer, receives session keys, moves records.
