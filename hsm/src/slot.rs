//! Which slot holds the token that a URI means.
//!
//! Invariant: exactly one initialised token fits, or none is taken.

use cryptoki::slot::Slot;

use crate::{Error, Module, TokenInfo, Uri};

/// The one initialised token that has every attribute the URI names.
pub(crate) fn find_slot(module: &Module, uri: &Uri) -> Result<(Slot, TokenInfo), Error> {
    let fits = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
    let (mut fitting, others): (Vec<_>, Vec<_>) = module
        .slots()?
        .into_iter()
        .filter(|(_, info)| info.initialized)
        .partition(|(_, info)| {
            fits(uri.token(), &info.label)
                && fits(uri.serial(), &info.serial)
                && fits(uri.manufacturer(), &info.manufacturer)
                && fits(uri.model(), &info.model)
                && uri.slot_id().is_none_or(|id| id == info.slot_id)
        });
    let names = |tokens: &[(Slot, TokenInfo)]| {
        let name =
            |(_, info): &(Slot, TokenInfo)| format!("`{}` (serial {})", info.label, info.serial);
        tokens.iter().map(name).collect::<Vec<_>>()
    };
    match (fitting.pop(), fitting.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Error::TokenNotFound {
            wanted: uri.to_string(),
            found: names(&others),
        }),
        (Some(last), false) => {
            fitting.push(last);
            Err(Error::TokenAmbiguous {
                wanted: uri.to_string(),
                found: names(&fitting),
            })
        }
    }
}
