//! What the token does for a request.
//!
//! Runs on token threads. Invariant: a transport key is good for one import and ten minutes.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use keyhaven_hsm::managed::{Made, PublicPart, Spec};
use keyhaven_kms::central::{Material, Rewrapped, Work, WorkDone, csr_scheme};
use keyhaven_types::{KekId, KeyId, KeyKind, Purpose, SignatureScheme};
use keyhaven_wire::kms::{
    Manifest, Public,
    admin::{Refused, RefusedCode},
};

use crate::desk::{Desk, random, token_refused};

/// Does it.
pub(crate) async fn run(desk: &Desk, work: Work) -> Result<WorkDone, Refused> {
    match work {
        Work::Generate {
            id,
            version,
            kind,
            purpose,
            kek,
        } => {
            let spec = spec(id, version, kind, purpose);
            let token = desk.token.clone();
            let made = on_token(desk, move |worker| token.generate(worker, &spec, kek)).await?;
            Ok(made_part(id, version, kek, made))
        }
        Work::Import { .. } => import(desk, work).await,
        Work::Transport => transport(desk).await,
        Work::Csr {
            manifest,
            root_wrap,
            names,
        } => csr(desk, *manifest, root_wrap, names).await,
        Work::Rewrap(versions) => {
            let token = desk.token.clone();
            let wraps = on_token(desk, move |worker| {
                let mut wraps = Vec::with_capacity(versions.len());
                for of in versions {
                    let spec = spec_of(&of.manifest);
                    let public = public_part(&of.manifest.public);
                    let site_wrap = token.rewrap(worker, &spec, &public, &of.root_wrap, of.kek)?;
                    wraps.push(Rewrapped { of, site_wrap });
                }
                Ok(wraps)
            })
            .await?;
            Ok(WorkDone::Rewrapped(wraps))
        }
        Work::Pool => {
            let token = desk.token.clone();
            let keks = on_token(desk, move |worker| token.refresh(worker)).await;
            // Without the token, what was last seen: lists must not need it.
            let keks = keks.unwrap_or_else(|_| desk.token.keks());
            let keks = keks.into_iter().map(|kek| (kek.purpose, kek.id));
            Ok(WorkDone::Pool(keks.collect()))
        }
    }
}

/// Whether the token signs.
pub(crate) async fn is_token_well(desk: &Desk) -> bool {
    let token = desk.token.clone();
    let signed = on_token(desk, move |worker| {
        token.sign_record(worker, b"keyhaven: is central's token well")
    });
    signed.await.is_ok()
}

async fn import(desk: &Desk, work: Work) -> Result<WorkDone, Refused> {
    let Work::Import {
        id,
        kind,
        purpose,
        kek,
        transport,
        wrapped_kek,
        wrapped_key,
        public,
    } = work
    else {
        return Err(Refused {
            code: RefusedCode::Rule,
            why: "no import".to_owned(),
        });
    };
    let known = {
        let mut transports = desk
            .transports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        transports.retain(|_, (since, _)| since.elapsed() < TRANSPORT_LIFE);
        transports.remove(&transport)
    };
    let Some((_, key)) = known else {
        return Err(Refused {
            code: RefusedCode::NotFound,
            why: "the transport key is not known here: it is good for one import, for ten minutes, at the central that \
                  made it"
                .to_owned(),
        });
    };
    let (spec, token) = (spec(id, 1, kind, purpose), desk.token.clone());
    let made = on_token(desk, move |worker| {
        token.import(
            worker,
            &key,
            &spec,
            kek,
            &wrapped_kek,
            &wrapped_key,
            public.as_deref(),
        )
    })
    .await?;
    Ok(made_part(id, 1, kek, made))
}

async fn transport(desk: &Desk) -> Result<WorkDone, Refused> {
    let token = desk.token.clone();
    let key = on_token(desk, move |worker| token.transport(worker)).await?;
    let (id, spki) = (random()?, key.spki().to_vec());
    let mut transports = desk
        .transports
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    transports.retain(|_, (since, _)| since.elapsed() < TRANSPORT_LIFE);
    if transports.len() >= TRANSPORTS_MAX {
        return Err(Refused {
            code: RefusedCode::Token,
            why: "too many imports have begun and not ended; wait ten minutes".to_owned(),
        });
    }
    transports.insert(id, (Instant::now(), Arc::new(key)));
    Ok(WorkDone::Transport { id, spki })
}

async fn csr(
    desk: &Desk,
    manifest: Manifest,
    root_wrap: Vec<u8>,
    names: Vec<String>,
) -> Result<WorkDone, Refused> {
    let (Some(scheme), Public::Spki(spki)) = (csr_scheme(manifest.kind), &manifest.public) else {
        return Err(Refused {
            code: RefusedCode::Rule,
            why: "a key of this kind signs no request".to_owned(),
        });
    };
    let (token, public) = (desk.token.clone(), public_part(&manifest.public));
    let (spec, spki) = (spec_of(&manifest), spki.clone());
    let der = on_token(desk, move |worker| {
        let sign =
            |message: &[u8]| token.sign_as(worker, &spec, &public, &root_wrap, scheme, message);
        Ok(request(&spki, &names, scheme, sign))
    })
    .await?;
    match der {
        Ok(der) => Ok(WorkDone::Csr(der)),
        Err(Unmade::Token(error)) => Err(token_refused(&error)),
        Err(Unmade::Rcgen(error)) => Err(Refused {
            code: RefusedCode::Rule,
            why: format!("the request cannot be made: {error}"),
        }),
    }
}

enum Unmade {
    Token(keyhaven_hsm::Error),
    Rcgen(rcgen::Error),
}

/// A PKCS#10 request for these names (RFC 2986).
fn request(
    spki: &[u8],
    names: &[String],
    scheme: SignatureScheme,
    sign: impl Fn(&[u8]) -> Result<Vec<u8>, keyhaven_hsm::Error>,
) -> Result<Vec<u8>, Unmade> {
    let mut params = rcgen::CertificateParams::new(names.to_vec()).map_err(Unmade::Rcgen)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = names.first() {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name.as_str());
    }
    let signer = Signer {
        public: public_bits(spki),
        algorithm: match scheme {
            SignatureScheme::EcdsaSecp384r1Sha384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            SignatureScheme::Ed25519 => &rcgen::PKCS_ED25519,
            SignatureScheme::EcdsaSecp256r1Sha256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            _ => &rcgen::PKCS_RSA_SHA256,
        },
        sign,
        failed: std::cell::RefCell::new(None),
    };
    match params.serialize_request(&signer) {
        Ok(request) => Ok(request.der().to_vec()),
        Err(error) => Err(match signer.failed.take() {
            Some(error) => Unmade::Token(error),
            None => Unmade::Rcgen(error),
        }),
    }
}

/// The token's key as rcgen wants one.
struct Signer<F> {
    public: Vec<u8>,
    algorithm: &'static rcgen::SignatureAlgorithm,
    sign: F,
    failed: std::cell::RefCell<Option<keyhaven_hsm::Error>>,
}

impl<F> rcgen::PublicKeyData for Signer<F> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl<F: Fn(&[u8]) -> Result<Vec<u8>, keyhaven_hsm::Error>> rcgen::SigningKey for Signer<F> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        (self.sign)(message).map_err(|error| {
            *self.failed.borrow_mut() = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }
}

/// The bits of a SubjectPublicKeyInfo, as rcgen wants them.
fn public_bits(spki: &[u8]) -> Vec<u8> {
    use x509_parser::{prelude::FromDer as _, x509::SubjectPublicKeyInfo};
    SubjectPublicKeyInfo::from_der(spki)
        .map(|(_, info)| info.subject_public_key.data.to_vec())
        .unwrap_or_default()
}

async fn on_token<T: Send + 'static>(
    desk: &Desk,
    job: impl FnOnce(&keyhaven_hsm::Worker) -> Result<T, keyhaven_hsm::Error> + Send + 'static,
) -> Result<T, Refused> {
    match desk.workers.run(Instant::now() + TOKEN_TIMEOUT, job).await {
        Ok(done) => done.map_err(|error| token_refused(&error)),
        Err(error) => Err(token_refused(&error)),
    }
}

fn spec(id: KeyId, version: u32, kind: KeyKind, purpose: Purpose) -> Spec {
    Spec {
        id,
        version,
        kind,
        purpose,
    }
}

fn spec_of(manifest: &Manifest) -> Spec {
    spec(
        manifest.id,
        manifest.version,
        manifest.kind,
        manifest.purpose,
    )
}

fn public_part(public: &Public) -> PublicPart {
    match public {
        Public::Spki(spki) => PublicPart::Spki(spki.clone()),
        Public::Kcv(kcv) => PublicPart::Kcv(*kcv),
    }
}

fn made_part(id: KeyId, version: u32, kek: KekId, made: Made) -> WorkDone {
    WorkDone::Made(Material {
        id,
        version,
        kek,
        public: match made.public {
            PublicPart::Spki(spki) => Public::Spki(spki),
            PublicPart::Kcv(kcv) => Public::Kcv(kcv),
        },
        site_wrap: made.site_wrap,
        root_wrap: made.root_wrap,
    })
}

/// RSA keys of 4096 bits take a software token many seconds.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a transport key waits for its import.
const TRANSPORT_LIFE: Duration = Duration::from_secs(600);
/// Imports that have begun.
const TRANSPORTS_MAX: usize = 64;
