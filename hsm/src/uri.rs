//! PKCS#11 URIs (RFC 7512), as far as they name a module, a token, an object and a PIN's place.
//!
//! Reads text and nothing else: whether the token exists is the business of `module` and `token`, the PIN itself
//! that of `pin`. Invariant: no PIN passes through here; `pin-value` is refused and no error or `Display` repeats
//! what stood in the query.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{percent, pin::PinSource};

/// The longest URI that is read, in bytes.
const URI_BYTES_MAX: usize = 4096;

/// A parsed `pkcs11:` URI. `Display` prints it without its query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    token: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    class: Option<ObjectClass>,
    slot_id: Option<u64>,
    module_path: Option<PathBuf>,
    pin_source: Option<PinSource>,
    warnings: Vec<String>,
}

/// What `type` says an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectClass {
    /// `type=private`.
    Private,
    /// `type=public`.
    Public,
    /// `type=cert`.
    Certificate,
    /// `type=secret-key`.
    SecretKey,
    /// `type=data`.
    Data,
}

/// Why a text is not a PKCS#11 URI of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme, or none.
    #[error("a PKCS#11 URI starts with `pkcs11:`")]
    Scheme,
    /// Too long.
    #[error("a PKCS#11 URI has at most {URI_BYTES_MAX} bytes")]
    Length,
    /// An attribute without `=`.
    #[error("attribute {number} of the URI is not of the form name=value")]
    Attribute {
        /// Which one, from 1, path and query together.
        number: usize,
    },
    /// An attribute that stands twice.
    #[error("`{name}` stands twice in the URI")]
    Duplicate {
        /// Its name.
        name: &'static str,
    },
    /// A character that must be percent-encoded, or a broken percent-encoding.
    #[error("the value of `{name}` has a character that must be percent-encoded, or a broken %XX")]
    Encoding {
        /// The attribute's name.
        name: &'static str,
    },
    /// A text that is not UTF-8.
    #[error("the value of `{name}` is not UTF-8")]
    Utf8 {
        /// The attribute's name.
        name: &'static str,
    },
    /// A value that means nothing.
    #[error("the value of `{name}` must be {expected}")]
    Value {
        /// The attribute's name.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A PIN in the URI.
    #[error(
        "`pin-value` is refused: a PIN in a URI ends in files, process lists and logs; use pin-source=file:/path, pin-source=cred:NAME or pin-source=terminal:"
    )]
    PinValue,
}

impl Uri {
    /// The token's label.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The token's manufacturer.
    pub fn manufacturer(&self) -> Option<&str> {
        self.manufacturer.as_deref()
    }

    /// The token's model.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The token's serial number.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }

    /// The object's label.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The object's id.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// What kind of object is meant.
    pub fn class(&self) -> Option<ObjectClass> {
        self.class
    }

    /// The slot's number. It may change at each start, so its use is warned of.
    pub fn slot_id(&self) -> Option<u64> {
        self.slot_id
    }

    /// The module to load.
    pub fn module_path(&self) -> Option<&Path> {
        self.module_path.as_deref()
    }

    /// Where the PIN is.
    pub fn pin_source(&self) -> Option<&PinSource> {
        self.pin_source.as_ref()
    }

    /// What was ignored or is unwise, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn set_path(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        match name {
            "token" => set_text(&mut self.token, "token", value),
            "manufacturer" => set_text(&mut self.manufacturer, "manufacturer", value),
            "model" => set_text(&mut self.model, "model", value),
            "serial" => set_text(&mut self.serial, "serial", value),
            "object" => set_text(&mut self.object, "object", value),
            "id" => set(&mut self.id, "id", bytes("id", value)?),
            "type" => set(&mut self.class, "type", class(value)?),
            "slot-id" => {
                self.warnings
                    .push("slot-id may change at each start; prefer token= or serial=".to_owned());
                set(&mut self.slot_id, "slot-id", slot_number(value)?)
            }
            other => {
                self.ignore(other);
                Ok(())
            }
        }
    }

    fn set_query(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        match name {
            "pin-value" => Err(UriError::PinValue),
            "pin-source" => {
                let source = pin_source(&text("pin-source", value)?)?;
                set(&mut self.pin_source, "pin-source", source)
            }
            "module-path" => {
                let path = text("module-path", value)?;
                if !path.starts_with('/') || path.contains('\0') {
                    return Err(UriError::Value {
                        name: "module-path",
                        expected: "an absolute path",
                    });
                }
                set(&mut self.module_path, "module-path", PathBuf::from(path))
            }
            other => {
                self.ignore(other);
                Ok(())
            }
        }
    }

    /// Only a name of plain letters is repeated: what stands in a wrong place might be a PIN.
    fn ignore(&mut self, name: &str) {
        let plain = name.len() <= 32
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_');
        let shown = if plain { name } else { "(unprintable)" };
        self.warnings.push(format!(
            "attribute `{shown}` is not known here and is ignored"
        ));
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::Length);
        }
        // RFC 3986: schemes are compared without regard to case.
        let rest = match text.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::default();
        let mut number = 0;
        for part in path.split(';').filter(|_| !path.is_empty()) {
            number += 1;
            let (name, value) = part.split_once('=').ok_or(UriError::Attribute { number })?;
            uri.set_path(name, value)?;
        }
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            number += 1;
            let (name, value) = part.split_once('=').ok_or(UriError::Attribute { number })?;
            uri.set_query(name, value)?;
        }
        Ok(uri)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("token", &self.token),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
            ("serial", &self.serial),
            ("object", &self.object),
        ];
        f.write_str("pkcs11:")?;
        let mut separator = "";
        for (name, value) in texts {
            if let Some(value) = value {
                write!(f, "{separator}{name}=")?;
                percent::encode(f, value.as_bytes(), false)?;
                separator = ";";
            }
        }
        if let Some(id) = &self.id {
            write!(f, "{separator}id=")?;
            percent::encode(f, id, true)?;
            separator = ";";
        }
        if let Some(class) = self.class {
            write!(f, "{separator}type={}", class.as_str())?;
            separator = ";";
        }
        if let Some(slot_id) = self.slot_id {
            write!(f, "{separator}slot-id={slot_id}")?;
        }
        Ok(())
    }
}

impl ObjectClass {
    /// The word that stands for it in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
            Self::Certificate => "cert",
            Self::SecretKey => "secret-key",
            Self::Data => "data",
        }
    }
}

fn class(value: &str) -> Result<ObjectClass, UriError> {
    [
        ObjectClass::Private,
        ObjectClass::Public,
        ObjectClass::Certificate,
        ObjectClass::SecretKey,
        ObjectClass::Data,
    ]
    .into_iter()
    .find(|class| class.as_str() == value)
    .ok_or(UriError::Value {
        name: "type",
        expected: "private, public, cert, secret-key or data",
    })
}

fn slot_number(value: &str) -> Result<u64, UriError> {
    let bad = UriError::Value {
        name: "slot-id",
        expected: "a decimal number",
    };
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad);
    }
    value.parse().map_err(|_| bad)
}

fn pin_source(value: &str) -> Result<PinSource, UriError> {
    let bad = UriError::Value {
        name: "pin-source",
        expected: "file:PATH, an absolute path, cred:NAME or terminal:",
    };
    if value.contains('\0') {
        return Err(bad);
    }
    if value == "terminal:" || value == "terminal" {
        return Ok(PinSource::Terminal);
    }
    if let Some(name) = value.strip_prefix("cred:") {
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        return if plain {
            Ok(PinSource::Credential(name.to_owned()))
        } else {
            Err(UriError::Value {
                name: "pin-source",
                expected: "cred:NAME with a name of letters, digits, `.`, `_` and `-`",
            })
        };
    }
    // file:///path and file:/path are the same place; another host's file is not ours to read.
    let path = match value.strip_prefix("file:") {
        Some(path) => match path.strip_prefix("//") {
            Some(after) if after.starts_with('/') => after,
            Some(_) => return Err(bad),
            None => path,
        },
        None if value.starts_with('/') => value,
        None => return Err(bad),
    };
    if path.is_empty() {
        return Err(bad);
    }
    Ok(PinSource::File(PathBuf::from(path)))
}

fn set<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    if place.is_some() {
        return Err(UriError::Duplicate { name });
    }
    *place = Some(value);
    Ok(())
}

fn set_text(place: &mut Option<String>, name: &'static str, value: &str) -> Result<(), UriError> {
    let value = text(name, value)?;
    set(place, name, value)
}

fn bytes(name: &'static str, value: &str) -> Result<Vec<u8>, UriError> {
    percent::decode(value).ok_or(UriError::Encoding { name })
}

fn text(name: &'static str, value: &str) -> Result<String, UriError> {
    String::from_utf8(bytes(name, value)?).map_err(|_| UriError::Utf8 { name })
}

#[cfg(test)]
#[path = "uri_tests.rs"]
mod tests;
