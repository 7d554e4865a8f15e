//! `token list | init | status`.
//!
//! Asks before anything is destroyed; the acts themselves are `hsm::admin`'s. Invariant: a token that is
//! initialised is initialised again only after its label was typed, or with `--yes`.

use keyhaven_hsm::{
    Module, Pin, TokenInfo,
    admin::{InitTarget, init_token, token_fits},
};
use serde_json::{Value, json};

use super::{
    args::{InitArgs, ModuleArgs, TokenArgs},
    ask::{self, Wanted},
    failure::Failure,
    key,
    report::{Report, table},
    select::{self, Selected},
    text,
};

/// Every token of the module.
pub(super) fn list(args: &ModuleArgs) -> Result<Report, Failure> {
    let module = Module::load_with(args.module.as_deref(), args.init_args.as_deref())?;
    let tokens = module.tokens()?;
    let mut rows = vec![
        ["LABEL", "SERIAL", "MODEL", "MANUFACTURER", "USER PIN"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for token in &tokens {
        let label = if token.initialized {
            text::clean(&token.label)
        } else {
            "(not initialised)".to_owned()
        };
        rows.push(vec![
            label,
            text::clean(&token.serial),
            text::clean(&token.model),
            text::clean(&token.manufacturer),
            pin_state(token).to_owned(),
        ]);
    }
    let json = json!({
        "module": module.path(),
        "tokens": tokens.iter().map(token_json).collect::<Vec<_>>(),
    });
    Ok(Report::new(
        json,
        format!("module {}\n{}", module.path().display(), table(&rows)),
    ))
}

/// Initialises a token.
pub(super) fn init(args: &InitArgs) -> Result<Report, Failure> {
    // Read before the module is loaded: a typing error should cost nothing.
    let source = |option: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| ask::parse_source(option, text))
            .transpose()
    };
    let pin_source = source("--pin-source", &args.pin_source)?;
    let so_pin_source = source("--so-pin-source", &args.so_pin_source)?;
    let module = Module::load_with(
        args.module.module.as_deref(),
        args.module.init_args.as_deref(),
    )?;
    let target = choose_target(&module, args)?;
    let again = matches!(target, InitTarget::Token(_));
    let of = format!("token `{}`", text::clean(&args.label));
    let so_pin = Wanted {
        noun: "security officer's PIN",
        of: &of,
        place: "--so-pin-source ",
        new: !again,
    }
    .read(so_pin_source.as_ref())?;
    let user_pin = Wanted {
        noun: "user PIN",
        of: &of,
        place: "--pin-source ",
        new: true,
    }
    .read(pin_source.as_ref())?;
    refuse_equal(&so_pin, &user_pin)?;

    let token = init_token(&module, &target, &args.label, &so_pin, &user_pin)?;
    // The place of the PIN that was just given, so that the next command can be run as it stands.
    let pin_query = match &args.pin_source {
        Some(source) => format!("?pin-source={source}"),
        None => String::new(),
    };
    let text = format!(
        "token `{}` is {} (serial {}, {})\n  its URI: {}\n  next:    signer-admin key generate --token '{}{pin_query}' --algorithm ec-p256 --label NAME\n",
        text::clean(&token.label),
        if again {
            "initialised again; what it held is gone"
        } else {
            "initialised"
        },
        token.serial,
        module.path().display(),
        text::token_uri(&token),
        text::token_uri(&token),
    );
    let json =
        json!({"module": module.path(), "token": token_json(&token), "initialised_again": again});
    Ok(Report::new(json, text))
}

/// One token with what it holds.
pub(super) fn status(args: &TokenArgs) -> Result<Report, Failure> {
    let selected = Selected::new(args)?;
    let session = selected.open()?;
    let keys = session.keys()?;
    let certificates = session.certificates()?.len();
    let token = session.info();
    let text = format!(
        "token `{}`\n  serial        {}\n  model         {} ({})\n  slot          {} (good until the next start)\n  module        {}\n  user PIN      {}\n  URI           {}\n  private keys  {}\n  certificates  {certificates}\n",
        text::clean(&token.label),
        text::clean(&token.serial),
        text::clean(&token.model),
        text::clean(&token.manufacturer),
        token.slot_id,
        selected.module.path().display(),
        pin_state(&selected.info),
        text::token_uri(token),
        keys.len(),
    );
    let json = json!({
        "module": selected.module.path(),
        "token": token_json(&selected.info),
        "keys": keys.iter().map(|key| key::key_json(token, key)).collect::<Vec<_>>(),
        "certificates": certificates,
    });
    Ok(Report::new(json, text))
}

/// A token as scripts see it.
pub(super) fn token_json(token: &TokenInfo) -> Value {
    json!({
        "label": token.label,
        "serial": token.serial,
        "model": token.model,
        "manufacturer": token.manufacturer,
        "slot_id": token.slot_id,
        "initialized": token.initialized,
        "user_pin": pin_state(token),
        "uri": token.initialized.then(|| text::token_uri(token)),
    })
}

fn pin_state(token: &TokenInfo) -> &'static str {
    if !token.user_pin_set {
        "not set"
    } else if token.user_pin_locked {
        "locked"
    } else if token.user_pin_final_try {
        "final try"
    } else if token.user_pin_count_low {
        "wrong tries counted"
    } else {
        "set"
    }
}

/// Which token is meant, and whether its end is.
fn choose_target(module: &Module, args: &InitArgs) -> Result<InitTarget, Failure> {
    let uri = match &args.token {
        Some(text) => select::parse_token(text)?,
        None => select::parse_token(&args.label)?,
    };
    let mut fitting: Vec<TokenInfo> = module
        .tokens()?
        .into_iter()
        .filter(|token| token.initialized && token_fits(token, &uri))
        .collect();
    let token = match (fitting.pop(), fitting.is_empty(), &args.token) {
        (None, _, None) => return Ok(InitTarget::Free),
        (None, _, Some(_)) => {
            return Err(Failure::new(
                format!("no initialised token fits `{uri}`"),
                "leave --token out to initialise a fresh token; signer-admin token list shows what there is",
            ));
        }
        (Some(_), false, _) => {
            return Err(Failure::usage(
                format!("more than one token fits `{uri}`"),
                "name one by its serial: --token 'pkcs11:serial=SERIAL'",
            ));
        }
        (Some(token), true, _) => token,
    };
    if !args.yes {
        let label = text::clean(&token.label);
        ask::confirm_label(
            &format!(
                "Token `{label}` (serial {}) is initialised. Every key in it will be destroyed.",
                token.serial
            ),
            &token.label,
            &format!(
                "token `{label}` is initialised already: choose another --label, or say --yes to destroy every key in it"
            ),
        )?;
    }
    Ok(InitTarget::Token(token))
}

/// One PIN for both roles would let a signer's PIN file destroy the token.
fn refuse_equal(so_pin: &Pin, user_pin: &Pin) -> Result<(), Failure> {
    if so_pin == user_pin {
        Err(Failure::new(
            "the security officer's PIN and the user PIN are the same; nothing was done",
            "choose two: the signer gets the user PIN alone, the other stays with you",
        ))
    } else {
        Ok(())
    }
}
