//! `[token]`: which module, which token in it, and where its PIN is.
//!
//! Nothing is opened here; a URI is only read. Invariant: no PIN is in the file, and none is in a message.

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
};

use keyhaven_hsm::{PinSource, Uri};
use keyhaven_service::config::Problems;
use toml::Spanned;

use super::raw;

/// The token to open.
pub struct TokenConfig {
    /// The module; none: SoftHSM2 where it is usually found.
    pub module: Option<PathBuf>,
    /// A text for the module's C_Initialize.
    pub init_args: Option<String>,
    /// Which token.
    pub uri: Uri,
    /// Where its PIN is.
    pub pin_source: PinSource,
    /// The folder against which the PIN file's path is resolved.
    pub base: PathBuf,
}

pub(super) fn validate(
    section: &raw::TokenSection,
    problems: &mut Problems,
) -> Option<TokenConfig> {
    let uri = match Uri::from_str(section.uri.get_ref()) {
        Ok(uri) => uri,
        Err(error) => {
            // The URI itself is not repeated: it may hold a PIN.
            problems.add(
                section.uri.span(),
                format!("the token's uri is not accepted: {error}"),
                "write pkcs11:token=LABEL?pin-source=file:PATH (RFC 7512)",
            );
            return None;
        }
    };
    for warning in uri.warnings() {
        problems.warn(
            section.uri.span(),
            warning,
            "name the token by label or serial",
        );
    }
    let named = section.module.as_ref().map(|path| path.get_ref().as_path());
    let module = named
        .or_else(|| uri.module_path())
        .map(|path: &Path| problems.resolve(path));
    if let Some(path) = &module
        && !path.is_file()
    {
        problems.add(
            section
                .module
                .as_ref()
                .map_or(section.uri.span(), Spanned::span),
            format!("there is no PKCS#11 module at {}", path.display()),
            "correct the path, or leave it out to have SoftHSM2 looked for",
        );
    }
    Some(TokenConfig {
        module,
        init_args: section
            .init_args
            .as_ref()
            .map(|args| args.get_ref().clone()),
        pin_source: uri.pin_source().cloned().unwrap_or(PinSource::Terminal),
        uri,
        base: problems.base().to_owned(),
    })
}
