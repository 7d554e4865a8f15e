//! Every secret of a TLS 1.3 connection by its name, and who may see it (RFC 8446, section 7.1).
//!
//! For tests that look for a secret where it must not be. Each has the lowest custody level whose promise it is that
//! the token keeps it; keys and IVs, which every level gives away, have none.

use keyhaven_types::CustodyLevel;

use super::hash::Hash;
use super::keys::key_len;

/// A secret with its name.
#[derive(Clone, PartialEq, Eq)]
pub struct Named {
    /// As RFC 8446 or RFC 5246 calls it.
    pub name: String,
    /// The lowest level at which the token keeps it; none when it leaves at each.
    pub kept_from: Option<CustodyLevel>,
    /// The secret.
    pub bytes: Vec<u8>,
}

impl Named {
    /// A secret that the token keeps from this level on.
    pub fn kept(name: &str, from: CustodyLevel, bytes: &[u8]) -> Named {
        Named {
            name: name.to_owned(),
            kept_from: Some(from),
            bytes: bytes.to_vec(),
        }
    }

    /// One that leaves at each level.
    pub fn leaving(name: &str, bytes: &[u8]) -> Named {
        Named {
            name: name.to_owned(),
            kept_from: None,
            bytes: bytes.to_vec(),
        }
    }

    /// Whether a token at this level promises to keep it.
    pub fn is_kept_at(&self, level: CustodyLevel) -> bool {
        self.kept_from.is_some_and(|from| level >= from)
    }
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// What a resumed session begins with.
#[derive(Clone, Debug)]
pub(crate) struct Psk {
    pub(crate) secret: Vec<u8>,
    pub(crate) binder: Vec<u8>,
}

/// The key schedule up to the application traffic secrets.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) hash: Hash,
    suite: u16,
    psk: Option<Psk>,
    shared: Vec<u8>,
    inner: Vec<u8>,
    handshake: Vec<u8>,
    pub(crate) client_handshake: Vec<u8>,
    pub(crate) server_handshake: Vec<u8>,
    main: Vec<u8>,
    pub(crate) client_application: Vec<u8>,
    pub(crate) server_application: Vec<u8>,
    exporter: Vec<u8>,
    resumption: Option<Vec<u8>>,
}

impl Schedule {
    /// Up to the handshake traffic secrets; `transcript` ends with the ServerHello.
    pub(crate) fn begin(
        suite: u16,
        psk: Option<Psk>,
        shared: &[u8],
        transcript: &[u8],
    ) -> Schedule {
        let hash = Hash::of_suite(suite);
        let zeros = vec![0; hash.len()];
        let early = hash.hmac(&zeros, psk.as_ref().map_or(&zeros, |psk| &psk.secret));
        let salt = derived(hash, &early);
        let handshake = hash.hmac(&salt, shared);
        Schedule {
            inner: inner(hash, &salt, shared),
            client_handshake: hash.derive_secret(&handshake, "c hs traffic", transcript),
            server_handshake: hash.derive_secret(&handshake, "s hs traffic", transcript),
            main: hash.hmac(&derived(hash, &handshake), &zeros),
            hash,
            suite,
            psk,
            shared: shared.to_vec(),
            handshake,
            client_application: Vec::new(),
            server_application: Vec::new(),
            exporter: Vec::new(),
            resumption: None,
        }
    }

    /// The application traffic secrets; `transcript` ends with the server's Finished.
    pub(crate) fn go_on(&mut self, transcript: &[u8]) {
        let secret = |label| self.hash.derive_secret(&self.main, label, transcript);
        let (client, server) = (secret("c ap traffic"), secret("s ap traffic"));
        self.exporter = secret("exp master");
        (self.client_application, self.server_application) = (client, server);
    }

    /// The resumption secret; `transcript` ends with the client's Finished.
    pub(crate) fn end(&mut self, transcript: &[u8]) {
        self.resumption = Some(
            self.hash
                .derive_secret(&self.main, "res master", transcript),
        );
    }

    /// The secret of a ticket with this nonce; none before the client's Finished.
    pub(crate) fn psk(&self, nonce: &[u8]) -> Option<Vec<u8>> {
        let resumption = self.resumption.as_ref()?;
        Some(
            self.hash
                .expand_label(resumption, "resumption", nonce, self.hash.len()),
        )
    }

    /// verify_data of a Finished.
    pub(crate) fn verify_data(&self, traffic: &[u8], transcript: &[u8]) -> Vec<u8> {
        self.hash
            .hmac(&self.finished_key(traffic), &self.hash.digest(transcript))
    }

    /// Every secret so far, keys and IVs included.
    pub(crate) fn named(&self) -> Vec<Named> {
        let mut all = vec![Named::kept(
            "shared secret",
            CustodyLevel::Premaster,
            &self.shared,
        )];
        let master = |name: &str, bytes: &[u8]| Named::kept(name, CustodyLevel::Master, bytes);
        all.push(Named::leaving(INNER, &self.inner));
        all.push(master("handshake secret", &self.handshake));
        all.push(master(
            "salt of the main secret",
            &derived(self.hash, &self.handshake),
        ));
        all.push(master("main secret", &self.main));
        if let Some(psk) = &self.psk {
            all.push(master("PSK", &psk.secret));
            all.push(Named::leaving("MAC of the binder", &psk.binder));
        }
        if let Some(resumption) = &self.resumption {
            all.push(master("resumption secret", resumption));
        }
        if !self.exporter.is_empty() {
            all.push(master("exporter secret", &self.exporter));
        }
        for (name, secret) in self.traffic() {
            all.push(Named::kept(name, CustodyLevel::Schedule, secret));
            all.push(Named::kept(
                &format!("Finished key of {name}"),
                CustodyLevel::Schedule,
                &self.finished_key(secret),
            ));
            let expand = |label, length| self.hash.expand_label(secret, label, &[], length);
            let key = expand("key", key_len(self.suite));
            all.push(Named::leaving(&format!("key of {name}"), &key));
            all.push(Named::leaving(&format!("IV of {name}"), &expand("iv", 12)));
        }
        all
    }

    fn traffic(&self) -> Vec<(&'static str, &[u8])> {
        let mut all: Vec<(_, &[u8])> = vec![
            ("client_handshake_traffic_secret", &self.client_handshake),
            ("server_handshake_traffic_secret", &self.server_handshake),
        ];
        if !self.client_application.is_empty() {
            all.push((
                "client_application_traffic_secret",
                &self.client_application,
            ));
            all.push((
                "server_application_traffic_secret",
                &self.server_application,
            ));
        }
        all
    }

    fn finished_key(&self, traffic: &[u8]) -> Vec<u8> {
        self.hash
            .expand_label(traffic, "finished", &[], self.hash.len())
    }
}

fn derived(hash: Hash, secret: &[u8]) -> Vec<u8> {
    hash.derive_secret(secret, "derived", b"")
}

/// The inner hash of an HMAC (RFC 2104): what comes out of a token that digests the shared secret and no more.
fn inner(hash: Hash, key: &[u8], message: &[u8]) -> Vec<u8> {
    let block = if hash == Hash::Sha384 { 128 } else { 64 };
    let mut padded = key.to_vec();
    padded.resize(block, 0);
    padded.iter_mut().for_each(|byte| *byte ^= 0x36);
    hash.digest(&[&padded, message].concat())
}

/// What the inner hash of the extraction of the handshake secret is called.
const INNER: &str = "inner hash of the extraction";
