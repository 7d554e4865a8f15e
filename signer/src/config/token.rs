//! `[[token]]`: which module, which token in it, and where its PIN is.
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

/// A token to open.
pub struct TokenConfig {
    /// The name that sites' keys use.
    pub name: String,
    /// The module; none: SoftHSM2 where it is usually found.
    pub module: Option<PathBuf>,
    /// A text for the module's C_Initialize, as NSS wants it.
    pub init_args: Option<String>,
    /// Which token.
    pub uri: Uri,
    /// Where its PIN is.
    pub pin_source: PinSource,
    /// The folder against which the PIN file's path is resolved.
    pub base: PathBuf,
    /// The line of the URI, for messages.
    pub line: usize,
}

pub(super) fn validate(
    raw: &Spanned<Vec<raw::TokenSection>>,
    base: &Path,
    problems: &mut Problems,
) -> Vec<TokenConfig> {
    let mut tokens: Vec<TokenConfig> = Vec::new();
    if raw.get_ref().is_empty() {
        problems.add(
            None,
            "there is no [[token]]",
            "name at least one token; see config/signer.toml",
        );
    }
    for section in raw.get_ref() {
        let name = section.name.get_ref();
        if tokens.iter().any(|token| token.name == *name) {
            problems.add(
                section.name.span(),
                format!("two tokens are named \"{name}\""),
                "give each token its own name",
            );
        }
        if let Some(token) = validate_token(section, base, problems) {
            check_arguments(section, &token, &tokens, problems);
            tokens.push(token);
        }
    }
    tokens
}

fn validate_token(
    section: &raw::TokenSection,
    base: &Path,
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
    let module = match (&section.module, uri.module_path()) {
        (Some(path), _) => Some(problems.resolve(path.get_ref())),
        (None, Some(path)) => Some(problems.resolve(path)),
        (None, None) => None,
    };
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
    let pin_source = uri.pin_source().cloned().unwrap_or(PinSource::Terminal);
    Some(TokenConfig {
        name: section.name.get_ref().clone(),
        module,
        init_args: section
            .init_args
            .as_ref()
            .map(|args| args.get_ref().clone()),
        line: problems.line(section.uri.span()),
        uri,
        pin_source,
        base: base.to_owned(),
    })
}

/// C_Initialize is called once a module, so its tokens must agree on the text.
fn check_arguments(
    section: &raw::TokenSection,
    token: &TokenConfig,
    others: &[TokenConfig],
    problems: &mut Problems,
) {
    let differs =
        |other: &&TokenConfig| other.module == token.module && other.init_args != token.init_args;
    if let Some(other) = others.iter().find(differs) {
        problems.add(
            section
                .init_args
                .as_ref()
                .map_or(section.name.span(), Spanned::span),
            format!(
                "tokens \"{}\" and \"{}\" are in one module and have different init_args",
                other.name, token.name
            ),
            "a module is initialised once: give both the same init_args",
        );
    }
}
