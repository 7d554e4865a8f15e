//! What failed and what to try: two lines for the operator, and an exit code.
//!
//! Errors keep their own words; this adds the advice that only a person at a command line can use. Invariant: every
//! failure has both lines.

use keyhaven_hsm::managed::CeremonyError;
use keyhaven_hsm::{Error as HsmError, PinError, UriError, admin::AdminError};
use keyhaven_service::config::ConfigError;
use serde_json::json;

use super::{
    keyfile::KeyFileError,
    text::{chain, clean},
};

/// The exit codes of the operator's contract.
pub(super) const RUN_TIME: u8 = 1;
pub(super) const USAGE: u8 = 64;
pub(super) const CONFIG: u8 = 78;

/// A verb that did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) remedy: String,
    pub(super) code: u8,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
            code: RUN_TIME,
        }
    }

    pub(super) fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            ..Self::new(what, remedy)
        }
    }

    pub(super) fn config(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code: CONFIG,
            ..Self::new(what, remedy)
        }
    }

    /// A file that could not be read or written.
    pub(super) fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(
            format!("cannot {doing} {}: {error}", path.display()),
            "check the path, its folders' permissions and the space that is left",
        )
    }

    pub(super) fn render(&self, json: bool) -> String {
        if json {
            let document = json!({"error": self.what, "try": self.remedy, "exit_code": self.code});
            format!("{document}\n")
        } else {
            format!("error: {}\n  try: {}\n", self.what, self.remedy)
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match &error {
            ConfigError::Read { path, source } => Self::config(
                format!("cannot read {}: {source}", path.display()),
                "give the path of the signer's configuration; this user must be able to read it",
            ),
            _ => Self::config(
                chain(&error),
                "signer-admin doctor --config FILE lists every problem; config/signer.toml explains every key",
            ),
        }
    }
}

impl From<HsmError> for Failure {
    fn from(error: HsmError) -> Self {
        // What the signer says of its own configuration and restart is not for a command that just ended.
        if let HsmError::PinRefused { token, hint } = &error {
            let what = format!("token `{token}` refused the PIN; it was tried once{hint}");
            return Self::new(
                clean(&what),
                "compare the PIN source with the token, and only then try again: many tokens lock after a few wrong tries",
            );
        }
        let remedy = match &error {
            HsmError::ModuleNotFound { .. } => {
                "install SoftHSM2, or name the vendor's module with --module PATH"
            }
            HsmError::LoadModule { path, .. } if !path.exists() => {
                "there is no such file: install the module's package, or name its place with --module PATH"
            }
            HsmError::InitArguments { .. } => {
                "a module is started once in a process: give all of its tokens the same init_args"
            }
            HsmError::LoadModule { .. } => {
                "for SoftHSM2, see that $SOFTHSM2_CONF or /etc/softhsm/softhsm2.conf names a token folder that this user can open"
            }
            HsmError::TokenNotFound { .. } => {
                "signer-admin token list shows what there is; signer-admin token init makes one"
            }
            HsmError::TokenAmbiguous { .. } => "name one by its serial: --token 'pkcs11:serial=…'",
            HsmError::UserPinNotSet { .. } => {
                "signer-admin token init --label … sets it (and destroys what the token holds)"
            }
            HsmError::PinLocked { .. } => {
                "let the security officer set a new user PIN with the vendor's tool"
            }
            HsmError::KeyNotFound { .. } => "signer-admin key list shows the keys there are",
            HsmError::KeyAmbiguous { .. } => "name one by its id: --id HEX",
            HsmError::WrongSignature { .. } => {
                "do not use this token; check its hardware, its software and the machine's memory"
            }
            _ => "signer-admin doctor looks at module, token and PIN one by one",
        };
        Self::new(chain(&error), remedy)
    }
}

impl From<CeremonyError> for Failure {
    fn from(error: CeremonyError) -> Self {
        let remedy = match &error {
            CeremonyError::SoPinRefused { .. } => {
                "compare --so-pin-file with the token, and only then try again: many tokens lock after a few wrong tries"
            }
            CeremonyError::Occupied { .. } => "run the ceremony as a command of its own",
            CeremonyError::PoolSize { .. } => "make fewer at once, and the rest in a second call",
            CeremonyError::NoSigningKey => "signer-admin kms ceremony init makes central's keys",
            CeremonyError::NoSuchKek(_) => {
                "is this central's token, and the export of its classes? signer-admin kms ceremony status shows what is in the token"
            }
            CeremonyError::SitePublic { .. } => {
                "take the request as `signer-admin kms site enroll` wrote it"
            }
            _ => {
                let CeremonyError::Token(error) = error else {
                    return Self::new(chain(&error), "signer-admin kms ceremony status");
                };
                return error.into();
            }
        };
        Self::new(clean(&chain(&error)), remedy)
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let remedy = match &error {
            AdminError::Token(_) => {
                let AdminError::Token(error) = error else {
                    return Self::new(chain(&error), "signer-admin doctor");
                };
                return error.into();
            }
            AdminError::TokenLabel { .. } => "choose a short label of letters, digits and `-`",
            AdminError::PinLength { .. } => "choose a PIN of a length that the token takes",
            AdminError::NoFreeSlot { .. } => {
                "name the token to initialise again with --token URI; its keys are then destroyed"
            }
            AdminError::SoPinRefused => {
                "give the security officer's PIN that the token has now, not a new one"
            }
            AdminError::LabelTaken { .. } => {
                "choose another --label, or delete the old key first: signer-admin key delete"
            }
            AdminError::IdTaken { .. } => "choose another --id, or leave it out to have one made",
            AdminError::KeyPresent { .. } => {
                "use the key under the name that it has; signer-admin key show shows it"
            }
            AdminError::KeyNotFound { .. } => "signer-admin key list shows the keys there are",
            AdminError::KeyAmbiguous { .. } => "name one by its id: --id HEX",
            AdminError::PublicPartMissing { .. } => {
                "import the key's certificate or its public key with the tool that made the key"
            }
            AdminError::ProofFailed { .. } => {
                "do not use this key; if it was just made or imported, it was removed again"
            }
            AdminError::TemplateIgnored { .. } => {
                "the token does not protect keys as it should: use another token, or another version of its module"
            }
            AdminError::Unsupported { .. } => {
                "use RSA with 2048, 3072 or 4096 bits, ECDSA P-256 or P-384, or Ed25519"
            }
            AdminError::CertificateMismatch { .. } => {
                "give the certificate that was issued for this key: signer-admin cert show FILE shows its public key's sha256"
            }
            AdminError::CertificateEncoding => "give certificates in PEM or DER",
            AdminError::LeftBehind { .. } => {
                "signer-admin key list shows what is left; signer-admin key delete removes it"
            }
            _ => "signer-admin doctor looks at module, token and PIN one by one",
        };
        Self::new(chain(&error), remedy)
    }
}

impl From<UriError> for Failure {
    fn from(error: UriError) -> Self {
        Self::usage(
            format!("the token's URI cannot be read: {error}"),
            "write it like 'pkcs11:token=LABEL?pin-source=file:/PATH', in quotes",
        )
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        let remedy = match &error {
            PinError::Permissions { .. } => {
                "chmod 600 keeps it to its owner; then change the PIN if others may have read it"
            }
            PinError::NoTerminal => "give --pin-source file:/PATH or cred:NAME",
            _ => "give --pin-source file:/PATH, cred:NAME or terminal:",
        };
        Self::new(chain(&error), remedy)
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::new(error.to_string(), error.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_and_the_code_are_there() {
        let failure = Failure::from("http:".parse::<keyhaven_hsm::Uri>().unwrap_err());
        assert_eq!(failure.code, USAGE);
        let text = failure.render(false);
        assert_eq!(text.lines().count(), 2, "{text}");
        let json: serde_json::Value = serde_json::from_str(&failure.render(true)).unwrap();
        assert_eq!(json["exit_code"], 64);
    }
}
