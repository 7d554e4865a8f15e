//! Judging clients' certificates: rustls' verifier over the site's own authorities and revocation lists.
//!
//! Which client may do what behind the site is the backend's business. Invariant: with a revocation list, a certificate
//! that no current list covers is refused.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::site::{Authorities, ClientAuth, SiteError};

/// The verifier of a site that asks for certificates.
pub(crate) fn verifier(
    auth: &ClientAuth,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, SiteError> {
    let (authorities, may_have_none) = match auth {
        ClientAuth::None => return Ok(None),
        ClientAuth::Optional(authorities) => (authorities, true),
        ClientAuth::Required(authorities) => (authorities, false),
    };
    let Authorities { roots, crls } = authorities;
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root.clone())
            .map_err(|error| SiteError::Authorities(error.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(
        Arc::new(store),
        aws_lc_rs::default_provider().into(),
    )
    .with_crls(crls.iter().cloned())
    .enforce_revocation_expiration();
    if may_have_none {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder
        .build()
        .map_err(|error| SiteError::Authorities(error.to_string()))?;
    Ok(Some(verifier))
}

/// The policy's name, for the binding of tickets.
pub(crate) fn name(auth: &ClientAuth) -> &'static str {
    match auth {
        ClientAuth::None => "none",
        ClientAuth::Optional(_) => "optional",
        ClientAuth::Required(_) => "required",
    }
}
