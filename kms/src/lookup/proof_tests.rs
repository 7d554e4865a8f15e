//! Every way in which a batch can be somebody else's, or for somebody else, or for another time.

use std::path::{Path, PathBuf};

use keyhaven_types::SignatureScheme;
use keyhaven_wire::kms::{KeyRef, Task};

use super::{super::testing::identity, *};

const NOW: u64 = 1_800_000_000_000;

/// A private CA in a folder.
struct Ca {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = rcgen::Issuer::new(ca, key);
        Self { folder, issuer }
    }

    fn credentials(&self, who: &Identity) -> Credentials {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut leaf = rcgen::CertificateParams::default();
        let uri = who.as_str().try_into().unwrap();
        leaf.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let file = |kind: &str| -> PathBuf { self.folder.path().join(kind) };
        let write = |path: &Path, text: String| std::fs::write(path, text).unwrap();
        write(&file("leaf.pem"), leaf.pem());
        write(&file("leaf.key"), key.serialize_pem());
        Credentials::load(&file("leaf.pem"), &file("leaf.key"), &file("ca.pem")).unwrap()
    }
}

struct Scene {
    ca: Ca,
    shop: Credentials,
    fra: Identity,
    nyc: Credentials,
    nonces: Mutex<Nonces>,
}

impl Scene {
    fn new() -> Self {
        let ca = Ca::new();
        Self {
            shop: ca.credentials(&identity("client", "shop")),
            fra: identity("signer", "fra"),
            nyc: ca.credentials(&identity("signer", "nyc")),
            nonces: Mutex::default(),
            ca,
        }
    }

    fn body(&self) -> BatchBody {
        BatchBody {
            caller: self.shop.identity().clone(),
            server: self.fra.clone(),
            nonce: [7; 16],
            expires_ms: NOW + 30_000,
            tasks: vec![Task::Wrap {
                key: KeyRef::Name("k".parse().unwrap()),
            }],
        }
    }

    /// What nyc makes of a batch that fra passes on.
    fn judge(&self, batch: &SignedBatch) -> Result<BatchBody, Refusal> {
        let parties = Parties {
            server: &self.fra,
            sender: None,
        };
        believe(&self.nyc, &self.nonces, NOW, parties, batch)
    }
}

fn signed_by(credentials: &Credentials, body: &BatchBody) -> SignedBatch {
    let body = postcard::to_stdvec(body).unwrap();
    let made = signed::sign(credentials, &batch_text(&body)).unwrap();
    SignedBatch {
        chain: made.chain,
        body,
        scheme: made.scheme,
        signature: made.signature,
    }
}

#[test]
fn m1_a_batch_of_its_caller_is_taken_once() {
    let scene = Scene::new();
    let batch = signed_by(&scene.shop, &scene.body());
    assert_eq!(scene.judge(&batch).unwrap().caller, *scene.shop.identity());
    assert!(matches!(scene.judge(&batch), Err(Refusal::Replayed)));
    // The same nonce of another caller is another one.
    let bank = scene.ca.credentials(&identity("client", "bank"));
    let mut body = scene.body();
    body.caller = bank.identity().clone();
    assert!(scene.judge(&signed_by(&bank, &body)).is_ok());
}

#[test]
fn m1_nobody_else_can_be_its_caller() {
    let scene = Scene::new();
    let forged = signed_by(&scene.nyc, &scene.body());
    assert!(matches!(scene.judge(&forged), Err(Refusal::Caller { .. })));
    let stranger = Ca::new().credentials(scene.shop.identity());
    let foreign = signed_by(&stranger, &scene.body());
    assert!(matches!(scene.judge(&foreign), Err(Refusal::Signature(_))));
    let mut mixed = signed_by(&scene.nyc, &scene.body());
    mixed.chain = signed_by(&scene.shop, &scene.body()).chain;
    assert!(matches!(scene.judge(&mixed), Err(Refusal::Signature(_))));
    let mut other_scheme = signed_by(&scene.shop, &scene.body());
    other_scheme.scheme = SignatureScheme::Ed25519;
    assert!(matches!(
        scene.judge(&other_scheme),
        Err(Refusal::Signature(_))
    ));
    // None of them used the nonce up.
    let good = signed_by(&scene.shop, &scene.body());
    assert!(scene.judge(&good).is_ok());
}

#[test]
fn m1_who_sends_it_is_its_caller_and_who_is_asked_is_its_server() {
    let scene = Scene::new();
    let batch = signed_by(&scene.shop, &scene.body());
    let bank = identity("client", "bank");
    let judge = |server, sender| {
        let parties = Parties { server, sender };
        believe(&scene.nyc, &scene.nonces, NOW, parties, &batch)
    };
    let sent_by_bank = judge(&scene.fra, Some(&bank));
    assert!(matches!(sent_by_bank, Err(Refusal::Caller { .. })));
    let asked_at_nyc = judge(scene.nyc.identity(), Some(scene.shop.identity()));
    assert!(matches!(asked_at_nyc, Err(Refusal::Server { .. })));
    assert!(judge(&scene.fra, Some(scene.shop.identity())).is_ok());
}

#[test]
fn m1_every_flipped_bit_is_refused() {
    let scene = Scene::new();
    let good = signed_by(&scene.shop, &scene.body());
    for at in 0..good.body.len() * 8 {
        let mut bad = good.clone();
        bad.body[at / 8] ^= 1 << (at % 8);
        assert!(scene.judge(&bad).is_err(), "bit {at} of the body");
    }
    for at in 0..good.signature.len() * 8 {
        let mut bad = good.clone();
        bad.signature[at / 8] ^= 1 << (at % 8);
        assert!(scene.judge(&bad).is_err(), "bit {at} of the signature");
    }
    let mut longer = good.clone();
    longer.body.push(0);
    assert!(matches!(scene.judge(&longer), Err(Refusal::Unreadable)));
    assert!(scene.judge(&good).is_ok());
}

#[test]
fn m1_it_has_a_time_and_bounds() {
    let scene = Scene::new();
    for (expires_ms, is_good) in [
        (0, false),
        (NOW, false),
        (NOW + 1, true),
        (NOW + AHEAD_MS_MAX, true),
        (NOW + AHEAD_MS_MAX + 1, false),
        (u64::MAX, false),
    ] {
        let mut body = scene.body();
        body.expires_ms = expires_ms;
        body.nonce[..8].copy_from_slice(&expires_ms.to_be_bytes());
        let judged = scene.judge(&signed_by(&scene.shop, &body));
        assert_eq!(judged.is_ok(), is_good, "{expires_ms}: {judged:?}");
    }
    let mut body = scene.body();
    body.tasks.clear();
    let judged = scene.judge(&signed_by(&scene.shop, &body));
    assert!(matches!(judged, Err(Refusal::Bounds(_))));
}

#[test]
fn m1_a_clock_that_goes_back_brings_no_batch_back() {
    let mut nonces = Nonces::default();
    let shop = identity("client", "shop");
    nonces.take(NOW, &shop, [1; 16], NOW + 10).unwrap();
    nonces.take(NOW + 20, &shop, [2; 16], NOW + 50).unwrap();
    let again = nonces.take(NOW, &shop, [1; 16], NOW + 10);
    assert!(matches!(again, Err(Refusal::Ended)), "{again:?}");
    assert!(nonces.take(NOW, &shop, [3; 16], NOW + 50).is_ok());
}

#[test]
fn what_is_remembered_is_bounded_and_one_caller_does_not_fill_it() {
    let mut nonces = Nonces::default();
    let (shop, bank) = (identity("client", "shop"), identity("client", "bank"));
    let nonce = |number: u32| {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        nonce
    };
    for number in 0..NONCES_PER_CALLER_MAX {
        nonces.take(NOW, &shop, nonce(number), NOW + 10).unwrap();
    }
    let full = nonces.take(NOW, &shop, [9; 16], NOW + 10);
    assert!(matches!(full, Err(Refusal::Full)));
    assert!(nonces.take(NOW, &bank, [9; 16], NOW + 10).is_ok());
    assert!(nonces.take(NOW + 11, &shop, [9; 16], NOW + 40).is_ok());
    assert_eq!(nonces.by_end.len(), 1, "what has ended is forgotten");
}
