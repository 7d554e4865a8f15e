//! The lines of the file `objects`: what each object was when it was created.
//!
//! Leaves the looking to the module; this is the file's format, the same on both sides. What a module does not
//! tell is `None`, written `-`.

use std::fmt;

macro_rules! seen {
    ($($(#[$doc:meta])* $flag:ident)*) => {
        /// An object right after its creation, as the real module tells it.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct ObjectSeen {
            /// Its handle.
            pub handle: u64,
            /// Its class, as `CKO_SECRET_KEY`.
            pub class: String,
            /// Its key type, as `CKK_GENERIC_SECRET`.
            pub key_type: Option<String>,
            /// The function that made it, as `C_DeriveKey`.
            pub function: String,
            /// The mechanism that made it, as `CKM_ECDH1_DERIVE`.
            pub mechanism: Option<String>,
            /// Whether its value, or a secret part of it, could be read.
            pub readable: bool,
            $( $(#[$doc])* pub $flag: Option<bool>, )*
        }

        impl ObjectSeen {
            /// Every complete line of the file.
            pub fn parse_all(file: &str) -> Vec<ObjectSeen> {
                let lines = file.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                lines.filter_map(Self::parse).collect()
            }

            fn parse(line: &str) -> Option<ObjectSeen> {
                let mut seen = ObjectSeen::default();
                for word in line.split_whitespace() {
                    let (name, value) = word.split_once('=')?;
                    let text = (value != "-").then(|| value.to_owned());
                    match name {
                        "handle" => seen.handle = value.parse().ok()?,
                        "class" => seen.class = text?,
                        "key_type" => seen.key_type = text,
                        "function" => seen.function = text?,
                        "mechanism" => seen.mechanism = text,
                        "readable" => seen.readable = value == "1",
                        $( stringify!($flag) => seen.$flag = text.map(|text| text == "1"), )*
                        _ => return None,
                    }
                }
                Some(seen)
            }
        }

        impl fmt::Display for ObjectSeen {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    f,
                    "handle={} class={} key_type={} function={} mechanism={} readable={}",
                    self.handle,
                    self.class,
                    self.key_type.as_deref().unwrap_or("-"),
                    self.function,
                    self.mechanism.as_deref().unwrap_or("-"),
                    u8::from(self.readable),
                )?;
                $( write!(f, " {}={}", stringify!($flag), flag(self.$flag))?; )*
                Ok(())
            }
        }
    };
}

seen! {
    /// CKA_SENSITIVE.
    sensitive
    /// CKA_EXTRACTABLE.
    extractable
    /// CKA_PRIVATE.
    private
    /// CKA_TOKEN: whether it outlives its session.
    token
    /// CKA_DERIVE.
    derive
    /// CKA_SIGN.
    sign
    /// CKA_ENCRYPT.
    encrypt
    /// CKA_DECRYPT.
    decrypt
    /// CKA_WRAP.
    wrap
    /// CKA_UNWRAP.
    unwrap
}

fn flag(value: Option<bool>) -> &'static str {
    match value {
        None => "-",
        Some(false) => "0",
        Some(true) => "1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let seen = ObjectSeen {
            handle: 7,
            class: "CKO_DATA".to_owned(),
            function: "C_DeriveKey".to_owned(),
            mechanism: Some("CKM_HKDF_DATA".to_owned()),
            readable: true,
            private: Some(true),
            token: Some(false),
            ..ObjectSeen::default()
        };
        let file = format!("{seen}\n{seen}\nhandle=8 cla");
        assert_eq!(ObjectSeen::parse_all(&file), [seen.clone(), seen]);
    }
}
