//! From options to one token: module, URI, PIN, session.
//!
//! Chooses and opens; what is done with the token is the verbs' business. Invariant: more than one token is never
//! guessed among, and the PIN is sent once.

use std::path::PathBuf;

use keyhaven_hsm::{
    Module, Pin, PinSource, Token, TokenInfo, Uri,
    admin::{AdminSession, KeyEntry, token_fits},
};

use super::{
    args::{KeyNameArgs, TokenArgs},
    ask::{self, Wanted},
    failure::Failure,
    text,
};
use crate::config::TokenConfig;

/// One token, chosen but not logged in to.
pub(super) struct Selected {
    pub(super) module: Module,
    pub(super) uri: Uri,
    pub(super) info: TokenInfo,
    pin_source: Option<PinSource>,
    /// Where a relative PIN file starts from.
    base: PathBuf,
}

impl Selected {
    /// Loads the module and finds the one token.
    pub(super) fn new(args: &TokenArgs) -> Result<Self, Failure> {
        let uri = match &args.token {
            Some(text) => parse_token(text)?,
            None => Uri::default(),
        };
        let pin_source = match &args.pin_source {
            Some(text) => Some(ask::parse_source("--pin-source", text)?),
            None => uri.pin_source().cloned(),
        };
        for warning in uri.warnings() {
            ask::tell(&format!("warning: {warning}"));
        }
        let module = Module::load(args.module.module.as_deref().or(uri.module_path()))?;
        let info = choose(&module, &uri)?;
        Ok(Self {
            module,
            uri,
            info,
            pin_source,
            base: PathBuf::from("."),
        })
    }

    /// A token of a signer's configuration.
    pub(super) fn from_config(section: &TokenConfig) -> Result<Self, Failure> {
        let module = Module::load(section.module.as_deref())?;
        let info = choose(&module, &section.uri)?;
        Ok(Self {
            module,
            uri: section.uri.clone(),
            info,
            pin_source: Some(section.pin_source.clone()),
            base: section.base.clone(),
        })
    }

    /// Fetches the PIN from its place.
    pub(super) fn pin(&self) -> Result<Pin, Failure> {
        let label = text::clean(&self.info.label);
        if self.info.user_pin_final_try {
            ask::tell(&format!(
                "warning: one more wrong PIN locks token `{label}`"
            ));
        }
        let wanted = Wanted {
            noun: "user PIN",
            of: &format!("token `{label}`"),
            option: "--pin-source",
            new: false,
        };
        wanted.read_from(&self.base, self.pin_source.as_ref())
    }

    /// Logs in for administration.
    pub(super) fn open(&self) -> Result<AdminSession, Failure> {
        self.open_with(&self.pin()?)
    }

    pub(super) fn open_with(&self, pin: &Pin) -> Result<AdminSession, Failure> {
        Ok(AdminSession::open(&self.module, &self.uri, pin)?)
    }

    /// Logs in as the signer does.
    pub(super) fn open_token(&self, pin: Pin) -> Result<Token, Failure> {
        Ok(Token::open(&self.module, &self.uri, pin)?)
    }

    /// The one key that options and URI name.
    pub(super) fn find_key(
        &self,
        session: &AdminSession,
        name: &KeyNameArgs,
    ) -> Result<KeyEntry, Failure> {
        let id = match &name.id {
            Some(text) => Some(parse_id(text)?),
            None => self.uri.id().map(<[u8]>::to_vec),
        };
        let label = name.label.as_deref().or(self.uri.object());
        if label.is_none() && id.is_none() {
            return Err(Failure::usage(
                "no key is named",
                "give --label or --id, or object= or id= in the token's URI",
            ));
        }
        Ok(session.find_key(label, id.as_deref())?)
    }
}

/// A token's URI, or its label alone.
pub(super) fn parse_token(text: &str) -> Result<Uri, Failure> {
    if text.starts_with("pkcs11:") {
        Ok(text.parse()?)
    } else {
        Ok(format!("pkcs11:token={}", text::percent(text.as_bytes())).parse()?)
    }
}

pub(super) fn parse_id(text: &str) -> Result<Vec<u8>, Failure> {
    text::parse_id(text).ok_or_else(|| {
        Failure::usage(
            "--id is not an id in hexadecimal",
            "write pairs of hexadecimal digits, at most 64 of them, like --id 01a2",
        )
    })
}

/// The one initialised token that fits.
fn choose(module: &Module, uri: &Uri) -> Result<TokenInfo, Failure> {
    let mut tokens = module.tokens()?;
    tokens.retain(|token| token.initialized);
    let (mut fitting, others): (Vec<_>, Vec<_>) =
        tokens.into_iter().partition(|token| token_fits(token, uri));
    let names = |tokens: &[TokenInfo]| {
        let name = |token: &TokenInfo| {
            format!("`{}` (serial {})", text::clean(&token.label), token.serial)
        };
        tokens.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    match (fitting.pop(), fitting.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            fitting.push(last);
            Err(Failure::usage(
                format!("more than one token fits: {}", names(&fitting)),
                "name one: --token 'pkcs11:token=LABEL' or --token 'pkcs11:serial=SERIAL'",
            ))
        }
        (None, _) if others.is_empty() => Err(Failure::new(
            format!("{} has no initialised token", module.path().display()),
            "make one: signer-admin token init --label NAME; for SoftHSM2 also check $SOFTHSM2_CONF",
        )),
        (None, _) => Err(Failure::new(
            format!("no token fits `{uri}`; the module has {}", names(&others)),
            "signer-admin token list shows what there is",
        )),
    }
}
