//! A ClientHello, part by part.
//!
//! The public fields are what tests turn; the rest is what any client sends. One key share at most.

use super::group::Group;
use super::messages::handshake_message;
use super::record::{HANDSHAKE, record};
use super::ticket::{Offered, fill_binders, pre_shared_key};
use super::tls12::SESSION_TICKET;

/// What the ClientHello says.
#[derive(Clone, Debug)]
pub struct Hello {
    /// server_name, or none.
    pub name: Option<String>,
    /// Versions on offer, in supported_versions when 0x0304 is among them.
    pub versions: Vec<u16>,
    /// Cipher suites.
    pub suites: Vec<u16>,
    /// supported_groups.
    pub groups: Vec<u16>,
    /// Whether a share is sent (TLS 1.3).
    pub share: bool,
    /// The group of the share.
    pub share_group: Group,
    /// signature_algorithms.
    pub schemes: Vec<u16>,
    /// Application protocols, or none.
    pub alpn: Vec<Vec<u8>>,
    /// Whether extended_master_secret is offered (TLS 1.2).
    pub extended_master_secret: bool,
    /// The compression methods.
    pub compression: Vec<u8>,
    /// More extensions, at the end.
    pub extra: Vec<(u16, Vec<u8>)>,
    /// Identities of pre_shared_key, behind all others; without any the extension is left out.
    pub resume: Vec<Offered>,
    /// psk_key_exchange_modes: 1 is psk_dhe_ke, 0 is psk_ke.
    pub psk_modes: Vec<u8>,
    /// client random.
    pub random: [u8; 32],
}

impl Hello {
    /// A TLS 1.3 client that asks for `name`, with AES-128-GCM and P-256.
    pub fn tls13(name: &str) -> Hello {
        Hello {
            name: Some(name.to_owned()),
            versions: vec![0x0304],
            suites: vec![0x1301],
            groups: vec![Group::P256.code()],
            share: true,
            share_group: Group::P256,
            schemes: SCHEMES.to_vec(),
            alpn: Vec::new(),
            extended_master_secret: false,
            compression: vec![0],
            extra: Vec::new(),
            resume: Vec::new(),
            psk_modes: vec![1],
            random: random(),
        }
    }

    /// A TLS 1.2 client that asks for `name`, with AES-128-GCM, P-256 and extended master secret.
    pub fn tls12(name: &str) -> Hello {
        Hello {
            versions: vec![0x0303],
            suites: vec![0xc02b, 0xc02f],
            share: false,
            extended_master_secret: true,
            ..Hello::tls13(name)
        }
    }

    /// The same client with one suite.
    pub fn with_suite(self, suite: u16) -> Hello {
        Hello {
            suites: vec![suite],
            ..self
        }
    }

    /// The same client with one group, of which it sends a share.
    pub fn with_group(self, group: Group) -> Hello {
        Hello {
            groups: vec![group.code()],
            share_group: group,
            ..self
        }
    }

    /// The same client, which offers these sessions to be resumed.
    pub fn resuming(self, offered: Vec<Offered>) -> Hello {
        Hello {
            resume: offered,
            ..self
        }
    }

    /// The same client, which wants a ticket of TLS 1.2.
    pub fn wanting_ticket(mut self) -> Hello {
        self.extra.push((SESSION_TICKET, Vec::new()));
        self
    }

    /// The handshake message; `point` is the client's public value.
    pub fn message(&self, point: &[u8]) -> Vec<u8> {
        self.message_after(&[], point)
    }

    /// The same behind other messages of the transcript, which the binders cover as well.
    pub(crate) fn message_after(&self, before: &[u8], point: &[u8]) -> Vec<u8> {
        let legacy = self
            .versions
            .iter()
            .copied()
            .min()
            .unwrap_or(0x0303)
            .min(0x0303);
        let mut body = legacy.to_be_bytes().to_vec();
        body.extend_from_slice(&self.random);
        // A session id, so that a TLS 1.3 server sends the compatibility ChangeCipherSpec.
        body.push(32);
        body.extend_from_slice(&self.random);
        body.extend(vector16(&u16s(&self.suites)));
        body.push(self.compression.len() as u8);
        body.extend_from_slice(&self.compression);
        body.extend(vector16(&self.extensions(point)));
        let mut message = handshake_message(1, &body);
        if !self.resume.is_empty() {
            fill_binders(before, &mut message, &self.resume);
        }
        message
    }

    /// The message in one record.
    pub fn record(&self, point: &[u8]) -> Vec<u8> {
        record(HANDSHAKE, &self.message(point))
    }

    fn extensions(&self, point: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut add = |kind: u16, body: &[u8]| {
            all.extend_from_slice(&kind.to_be_bytes());
            all.extend(vector16(body));
        };
        if let Some(name) = &self.name {
            let mut entry = vec![0];
            entry.extend(vector16(name.as_bytes()));
            add(0, &vector16(&entry));
        }
        add(10, &vector16(&u16s(&self.groups)));
        add(11, &[1, 0]);
        add(13, &vector16(&u16s(&self.schemes)));
        if !self.alpn.is_empty() {
            let mut names = Vec::new();
            for name in &self.alpn {
                names.push(name.len() as u8);
                names.extend_from_slice(name);
            }
            add(16, &vector16(&names));
        }
        if self.extended_master_secret {
            add(23, &[]);
        }
        if self.versions.contains(&0x0304) {
            let versions = u16s(&self.versions);
            let mut body = vec![versions.len() as u8];
            body.extend(versions);
            add(43, &body);
            let modes = [&[self.psk_modes.len() as u8], self.psk_modes.as_slice()].concat();
            add(45, &modes);
            let mut shares = Vec::new();
            if self.share {
                shares.extend_from_slice(&self.share_group.code().to_be_bytes());
                shares.extend(vector16(point));
            }
            add(51, &vector16(&shares));
        }
        for (kind, body) in &self.extra {
            add(*kind, body);
        }
        if !self.resume.is_empty() {
            add(41, &pre_shared_key(&self.resume));
        }
        all
    }
}

/// Random bytes.
pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

fn u16s(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let mut vector = (bytes.len() as u16).to_be_bytes().to_vec();
    vector.extend_from_slice(bytes);
    vector
}

/// ecdsa_secp256r1_sha256, ecdsa_secp384r1_sha384, ed25519, rsa_pss_rsae_sha256, rsa_pkcs1_sha256.
const SCHEMES: &[u16] = &[0x0403, 0x0503, 0x0807, 0x0804, 0x0401];
