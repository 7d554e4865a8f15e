//! PKCS#11 tokens: module, URI, PIN, session threads, keys, signatures, derivations, self-tests. The only room that names cryptoki.
