//! Known answers: the trace of RFC 8448, section 3, and a TLS 1.2 schedule that OpenSSL made.
//!
//! The derivations were compared with this process's software before; these vectors show that both are not wrong in
//! the same way. Invariant: a vector that a module gets wrong takes the level away; one that it does not let be
//! tried, since it imports no secret, says nothing.

use cryptoki::{mechanism::hkdf::HkdfSalt, object::Attribute};
use keyhaven_types::HashAlgorithm;
use zeroize::Zeroizing;

use super::{
    Made, Run,
    software::{self, same},
    told,
};
use crate::{
    Finished12, Kept, TokenFault, hkdf,
    raw::Randoms,
    template::{self, Usage},
    tls12,
};

impl Run<'_> {
    /// Every vector whose level was reached.
    pub(super) fn vectors(&mut self) {
        if !self.profile.master13.is_empty() {
            let outcome = self.vector(Self::tls13);
            let check = "TLS 1.3: the trace of RFC 8448 comes out".to_owned();
            if self.judge(check, outcome) {
                self.profile.master13.clear();
                self.profile.schedule13.clear();
                self.profile.vault = false;
            }
        }
        if !self.profile.schedule12.is_empty() {
            let outcome = self.vector(Self::tls12);
            let check = "TLS 1.2: a known schedule comes out".to_owned();
            if self.judge(check, outcome) {
                self.profile.schedule12.clear();
            }
        }
    }

    /// Notes an outcome; whether the module got the vector wrong.
    fn judge(&mut self, check: String, outcome: Result<(), Failure>) -> bool {
        let wrong = matches!(outcome, Err(Failure::Wrong(_)));
        let outcome = outcome.map_err(|failure| match failure {
            Failure::Wrong(detail) => detail,
            Failure::NotTried(detail) => format!("could not be tried: {detail}"),
        });
        self.note(check, outcome);
        wrong
    }

    fn vector(
        &self,
        vector: fn(&Self, &mut Made<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut made = Made::new(self.session, self.ways);
        let outcome = vector(self, &mut made);
        made.end().map_err(Failure::Wrong)?;
        outcome
    }

    /// The shared secret of the trace, as an object. It is no secret.
    fn import(&self, made: &mut Made<'_>) -> Result<cryptoki::object::ObjectHandle, Failure> {
        let mut template = template::secret(&self.ways, None, Usage::Derive, Kept::Never);
        template.push(Attribute::Value(SHARED_SECRET.to_vec()));
        let object = self
            .session
            .create_object(&template)
            .map_err(|error| Failure::NotTried(TokenFault::new(error).to_string()))?;
        made.objects.push(object);
        Ok(object)
    }

    fn tls13(&self, made: &mut Made<'_>) -> Result<(), Failure> {
        let secret = self.import(made)?;
        let (session, ways, hash) = (self.session, &self.ways, HashAlgorithm::Sha256);
        let expand = |made: &mut Made<'_>, base, label: &str, context: &[u8]| {
            let info = software::label(label, context, 32);
            let expanded = hkdf::expand(session, ways, hash, base, &info, 32, Kept::Never);
            made.keep(label, expanded, Kept::Never)
        };
        let bytes = |base, label: &str, context: &[u8], expected: &[u8]| {
            let info = software::label(label, context, expected.len());
            let mut out = Zeroizing::new(vec![0; expected.len()]);
            hkdf::expand_bytes(session, hash, base, &info, &mut out).map_err(told)?;
            same(&out, expected).map_err(|_| format!("{label}: not the trace's"))
        };
        let extracted = hkdf::extract(session, ways, hash, HkdfSalt::Data(&SALT), secret);
        let handshake = made.keep("the handshake secret", extracted, Kept::Never)?;
        if !self.profile.schedule13.is_empty() {
            let traffic = expand(made, handshake, "s hs traffic", &HELLOS)?;
            bytes(traffic, "key", b"", &SERVER_KEY)?;
            bytes(traffic, "iv", b"", &SERVER_IV)?;
        }
        let derived = expand(made, handshake, "derived", &EMPTY_HASH)?;
        let zeros = hkdf::zeros(session, hash).map_err(told)?;
        made.objects.push(zeros);
        let extracted = hkdf::extract(session, ways, hash, HkdfSalt::Key(derived), zeros);
        let master = made.keep("the master secret", extracted, Kept::Never)?;
        bytes(master, "s ap traffic", &FLIGHT, &SERVER_TRAFFIC)?;
        Ok(())
    }

    fn tls12(&self, made: &mut Made<'_>) -> Result<(), Failure> {
        let secret = self.import(made)?;
        let (session, ways, hash) = (self.session, &self.ways, HashAlgorithm::Sha256);
        let derived = tls12::extended_master(session, ways, hash, secret, &HELLOS, Kept::Never);
        let master = made.keep("the master secret", derived, Kept::Never)?;
        let randoms = Randoms {
            client: &[0xc1; 32],
            server: &[0x5e; 32],
        };
        let mut block = Zeroizing::new([0; 40]);
        tls12::key_block(session, ways, hash, master, randoms, &mut block[..]).map_err(told)?;
        same(&block[..], &KEY_BLOCK)?;
        let mut mac = [0; 12];
        let whose = Finished12::Server;
        tls12::finished(session, ways, hash, master, whose, &HELLOS, &mut mac).map_err(told)?;
        same(&mac, &FINISHED)?;
        Ok(())
    }
}

/// Why a vector did not come out.
enum Failure {
    NotTried(String),
    Wrong(String),
}

impl From<String> for Failure {
    fn from(detail: String) -> Self {
        Self::Wrong(detail)
    }
}

/// RFC 8448, section 3: the ECDHE secret.
const SHARED_SECRET: [u8; 32] = [
    0x8b, 0xd4, 0x05, 0x4f, 0xb5, 0x5b, 0x9d, 0x63, 0xfd, 0xfb, 0xac, 0xf9, 0xf0, 0x4b, 0x9f, 0x0d,
    0x35, 0xe6, 0xd6, 0x3f, 0x53, 0x75, 0x63, 0xef, 0xd4, 0x62, 0x72, 0x90, 0x0f, 0x89, 0x49, 0x2d,
];
/// RFC 8448: "derived" of the early secret.
const SALT: [u8; 32] = [
    0x6f, 0x26, 0x15, 0xa1, 0x08, 0xc7, 0x02, 0xc5, 0x67, 0x8f, 0x54, 0xfc, 0x9d, 0xba, 0xb6, 0x97,
    0x16, 0xc0, 0x76, 0x18, 0x9c, 0x48, 0x25, 0x0c, 0xeb, 0xea, 0xc3, 0x57, 0x6c, 0x36, 0x11, 0xba,
];
/// RFC 8448: the hash up to ServerHello. In TLS 1.2 it stands for the session hash.
const HELLOS: [u8; 32] = [
    0x86, 0x0c, 0x06, 0xed, 0xc0, 0x78, 0x58, 0xee, 0x8e, 0x78, 0xf0, 0xe7, 0x42, 0x8c, 0x58, 0xed,
    0xd6, 0xb4, 0x3f, 0x2c, 0xa3, 0xe6, 0xe9, 0x5f, 0x02, 0xed, 0x06, 0x3c, 0xf0, 0xe1, 0xca, 0xd8,
];
/// RFC 8448: the server's handshake key.
const SERVER_KEY: [u8; 16] = [
    0x3f, 0xce, 0x51, 0x60, 0x09, 0xc2, 0x17, 0x27, 0xd0, 0xf2, 0xe4, 0xe8, 0x6e, 0xe4, 0x03, 0xbc,
];
/// RFC 8448: the server's handshake IV.
const SERVER_IV: [u8; 12] = [
    0x5d, 0x31, 0x3e, 0xb2, 0x67, 0x12, 0x76, 0xee, 0x13, 0x00, 0x0b, 0x30,
];
/// SHA-256 of nothing.
const EMPTY_HASH: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];
/// RFC 8448: the hash up to the server's Finished.
const FLIGHT: [u8; 32] = [
    0x96, 0x08, 0x10, 0x2a, 0x0f, 0x1c, 0xcc, 0x6d, 0xb6, 0x25, 0x0b, 0x7b, 0x7e, 0x41, 0x7b, 0x1a,
    0x00, 0x0e, 0xaa, 0xda, 0x3d, 0xaa, 0xe4, 0x77, 0x7a, 0x76, 0x86, 0xc9, 0xff, 0x83, 0xdf, 0x13,
];
/// RFC 8448: the server's application traffic secret.
const SERVER_TRAFFIC: [u8; 32] = [
    0xa1, 0x1a, 0xf9, 0xf0, 0x55, 0x31, 0xf8, 0x56, 0xad, 0x47, 0x11, 0x6b, 0x45, 0xa9, 0x50, 0x32,
    0x82, 0x04, 0xb4, 0xf4, 0x4b, 0xfb, 0x6b, 0x3a, 0x4b, 0x4f, 0x1f, 0x3f, 0xcb, 0x63, 0x16, 0x43,
];
/// `openssl kdf … TLS1-PRF`: "key expansion" of the extended master secret of the secret and hash above, with the
/// randoms of [`Run::tls12`].
const KEY_BLOCK: [u8; 40] = [
    0x46, 0x48, 0xa4, 0x62, 0x77, 0xb1, 0xe1, 0x59, 0x61, 0x23, 0x26, 0x2f, 0x21, 0x5b, 0xbb, 0x01,
    0x6e, 0x31, 0x61, 0xf5, 0xcc, 0x81, 0xae, 0xd9, 0xce, 0x05, 0xec, 0x6e, 0x78, 0xbe, 0x77, 0x43,
    0x45, 0x63, 0x3c, 0x05, 0x0e, 0x07, 0xed, 0xae,
];
/// The same: "server finished" over the hash above.
const FINISHED: [u8; 12] = [
    0x53, 0x63, 0xbb, 0x80, 0x1f, 0x98, 0xac, 0x55, 0x8d, 0x34, 0x38, 0x3c,
];
