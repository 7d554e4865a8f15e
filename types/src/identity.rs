//! Who is at the other end of our own channel: a SPIFFE id with its role in the path.
//!
//! Parses and compares; the certificate that carries the id is the business of `service`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a process may ask for, read from the first segment of its SPIFFE path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A TLS frontend.
    Proxy,
    /// A key server.
    Signer,
    /// An operator.
    Admin,
    /// The central KMS server.
    Central,
    /// A program that has operations done with managed keys.
    Client,
}

impl Role {
    /// Each of them.
    const ALL: &'static [Self] = &[
        Self::Proxy,
        Self::Signer,
        Self::Admin,
        Self::Central,
        Self::Client,
    ];

    /// The path segment that stands for the role.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Signer => "signer",
            Self::Admin => "admin",
            Self::Central => "central",
            Self::Client => "client",
        }
    }
}

/// A SPIFFE id of the form `spiffe://TRUST-DOMAIN/ROLE/NAME`.
///
/// The form is narrower than the SPIFFE standard allows: exactly two path segments, lower-case trust domain,
/// names of letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    text: String,
    role: Role,
    trust_domain_len: usize,
}

/// Why a text is not an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Another scheme, or no scheme.
    #[error("a SPIFFE id starts with `spiffe://`")]
    Scheme,
    /// Longer than the 2,048 bytes that SPIFFE allows.
    #[error("a SPIFFE id has at most 2048 bytes")]
    Length,
    /// The trust domain is empty or has a character that SPIFFE refuses.
    #[error("the trust domain must be lower-case letters, digits, `.`, `_` and `-`")]
    TrustDomain,
    /// The path is not `/ROLE/NAME`.
    #[error("the path must be /ROLE/NAME with role proxy, signer, admin, central or client")]
    Path,
}

const SCHEME: &str = "spiffe://";

impl Identity {
    /// The role in the path.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..SCHEME.len() + self.trust_domain_len]
    }

    /// The whole id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > 2048 {
            return Err(IdentityError::Length);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Path)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if domain.is_empty()
            || !domain
                .chars()
                .all(|c| is_name(c) && !c.is_ascii_uppercase())
        {
            return Err(IdentityError::TrustDomain);
        }
        let (role, name) = path.split_once('/').ok_or(IdentityError::Path)?;
        let role = Role::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == role)
            .ok_or(IdentityError::Path)?;
        if name.is_empty() || name == "." || name == ".." || !name.chars().all(is_name) {
            return Err(IdentityError::Path);
        }
        Ok(Self {
            text: text.to_owned(),
            role,
            trust_domain_len: domain.len(),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_and_domain_are_read_from_the_id() {
        let id: Identity = "spiffe://example.org/proxy/edge-1".parse().unwrap();
        assert_eq!((id.role(), id.trust_domain()), (Role::Proxy, "example.org"));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "https://example.org/proxy/a",
            "spiffe://example.org",
            "spiffe://example.org/proxy",
            "spiffe://example.org/proxy/",
            "spiffe://example.org/proxy/a/b",
            "spiffe://example.org/root/a",
            "spiffe://Example.org/proxy/a",
            "spiffe:///proxy/a",
            "spiffe://example.org/proxy/a%2fb",
            "spiffe://example.org/proxy/..",
            "spiffe://user@example.org/proxy/a",
            "spiffe://example.org:443/proxy/a",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
