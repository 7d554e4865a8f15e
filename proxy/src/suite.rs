//! The names of cipher suites, for people and for backends.
//!
//! Names only: whether a suite is any good is the signer's business.

/// The names of one suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SuiteName {
    /// As registered (RFC 8446, B.4; RFC 5289; RFC 7905).
    pub(crate) standard: &'static str,
    /// As OpenSSL says it, and with it the PROXY protocol.
    pub(crate) openssl: &'static str,
}

/// The names of the suite with this code point.
pub(crate) fn name(suite: u16) -> SuiteName {
    let (standard, openssl) = match suite {
        0x1301 => ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        0x1302 => ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        0x1303 => (
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        0xc02b => (
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        0xc02c => (
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        0xc02f => (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        0xc030 => (
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ),
        0xcca8 => (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
        0xcca9 => (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        _ => ("unknown", "unknown"),
    };
    SuiteName { standard, openssl }
}
