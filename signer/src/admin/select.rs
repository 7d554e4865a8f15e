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
    /// What the PIN's place is written behind.
    place: &'static str,
}

impl Selected {
    /// Loads the module and finds the one token.
    pub(super) fn new(args: &TokenArgs) -> Result<Self, Failure> {
        let uri = match &args.token {
            Some(text) => parse_token(text)?,
            None => Uri::default(),
        };
        let (pin_source, place) = match (&args.pin_source, uri.pin_source()) {
            (Some(text), _) => (
                Some(ask::parse_source("--pin-source", text)?),
                "--pin-source ",
            ),
            (None, Some(source)) => (Some(source.clone()), "pin-source="),
            (None, None) => (None, "--pin-source "),
        };
        for warning in uri.warnings() {
            ask::tell(&format!("warning: {warning}"));
        }
        let path = args.module.module.as_deref().or(uri.module_path());
        let module = Module::load_with(path, args.module.init_args.as_deref())?;
        let info = choose(&module, &uri, false)?;
        Ok(Self {
            module,
            uri,
            info,
            pin_source,
            base: PathBuf::from("."),
            place,
        })
    }

    /// A token of a signer's configuration.
    pub(super) fn from_config(section: &TokenConfig) -> Result<Self, Failure> {
        let module = Module::load_with(section.module.as_deref(), section.init_args.as_deref())?;
        let info = choose(&module, &section.uri, true)?;
        Ok(Self {
            module,
            uri: section.uri.clone(),
            info,
            pin_source: Some(section.pin_source.clone()),
            base: section.base.clone(),
            place: "pin-source=",
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
            place: self.place,
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
            "write pairs of hexadecimal digits, at most 64 of them: --id 01a2, or as URIs have it, --id %01%A2",
        )
    })
}

/// The one initialised token that fits. A token that a configuration names was there: a new one is no remedy.
fn choose(module: &Module, uri: &Uri, was_there: bool) -> Result<TokenInfo, Failure> {
    const FIND_IT: &str = "find it, for a new token does not bring its keys back: see that $SOFTHSM2_CONF is the one of the signer's process and that the token folder it names is whole, or restore the folder from a backup";
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
            if was_there {
                FIND_IT
            } else {
                "for SoftHSM2 see that $SOFTHSM2_CONF is the one that the token was made with; signer-admin token init --label NAME makes a new, empty one"
            },
        )),
        (None, _) => Err(Failure::new(
            format!("no token fits `{uri}`; the module has {}", names(&others)),
            if was_there {
                FIND_IT
            } else {
                "signer-admin token list shows what there is"
            },
        )),
    }
}
