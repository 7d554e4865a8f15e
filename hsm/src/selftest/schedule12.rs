//! The key schedule of TLS 1.2 on a handle, from the shared secret to the key block and the Finished MACs.
//!
//! Modules differ in how they do it: each way that the quirks leave open is tried until one is proven. Invariant:
//! the master secret is attacked, and what comes out of it is compared with software.

use cryptoki::object::ObjectHandle;
use keyhaven_types::{HashAlgorithm, NamedGroup};
use zeroize::Zeroizing;

use super::{
    Derivations, Made, Run, SALT,
    software::{self, same},
    software_ems, told,
};
use crate::{Finished12, Kept, quirks::Ways, raw::Randoms, session::OpenSession, tls12};

impl Run<'_> {
    /// False when something was readable or stayed.
    pub(super) fn schedule12(
        &mut self,
        group: NamedGroup,
        hash: HashAlgorithm,
        secret: ObjectHandle,
        expected: &[u8],
        proven: &mut Derivations,
    ) -> bool {
        let mut failures = Vec::new();
        let mut unsound = Vec::new();
        let found = self.candidates(proven).into_iter().find(|ways| {
            let mut made = Made::new(self.session, *ways);
            let outcome = prove(self.session, ways, &mut made, hash, secret, expected);
            unsound.extend(made.end().err());
            outcome.map_err(|detail| failures.push(detail)).is_ok()
        });
        let name = group.as_str();
        let check =
            format!("{name}: TLS 1.2 master secret with {hash:?} stays and equals software");
        failures.dedup();
        if let Some(ways) = self.note(check, found.ok_or_else(|| failures.join("; "))) {
            self.ways = ways;
            proven.schedule12.push((group, hash));
        }
        if unsound.is_empty() {
            return true;
        }
        let check = format!("{name}: objects of TLS 1.2 are sensitive and destroyed");
        self.note(check, Err::<(), _>(unsound.join("; ")));
        false
    }

    /// Every combination of the module's ways, or the one that was proven before.
    fn candidates(&self, proven: &Derivations) -> Vec<Ways> {
        if !(proven.schedule12.is_empty() && self.profile.schedule12.is_empty()) {
            return vec![self.ways];
        }
        let quirks = self.quirks;
        let mut candidates = Vec::new();
        for &ems in quirks.ems {
            for &key_block in quirks.key_block {
                for &finished12 in quirks.finished12 {
                    candidates.push(Ways {
                        ems,
                        key_block,
                        finished12,
                        ..self.ways
                    });
                }
            }
        }
        candidates
    }
}

fn prove(
    session: &OpenSession,
    ways: &Ways,
    made: &mut Made<'_>,
    hash: HashAlgorithm,
    secret: ObjectHandle,
    expected: &[u8],
) -> Result<(), String> {
    let session_hash = &SALT[..hash.output_len()];
    let derived = tls12::extended_master(session, ways, hash, secret, session_hash, Kept::Never);
    let master = made.keep("the master secret", derived, Kept::Never)?;
    let software = software_ems(hash, expected, session_hash);

    let randoms = Randoms {
        client: &[0xc1; 32],
        server: &[0x5e; 32],
    };
    let mut block = Zeroizing::new([0; BLOCK_LEN]);
    tls12::key_block(session, ways, hash, master, randoms, &mut block[..])
        .map_err(|error| format!("the key block: {}", told(error)))?;
    let seed = [randoms.server.as_slice(), randoms.client.as_slice()].concat();
    same(
        &block[..],
        &software::prf(hash, &software, b"key expansion", &seed, BLOCK_LEN),
    )
    .map_err(|detail| format!("the key block: {detail}"))?;

    for (whose, label) in [
        (Finished12::Client, b"client finished"),
        (Finished12::Server, b"server finished"),
    ] {
        let mut mac = [0; 12];
        tls12::finished(session, ways, hash, master, whose, session_hash, &mut mac)
            .map_err(|error| format!("a Finished: {}", told(error)))?;
        same(
            &mac,
            &software::prf(hash, &software, label, session_hash, 12),
        )
        .map_err(|detail| format!("a Finished: {detail}"))?;
    }
    Ok(())
}

/// Two keys of 32 bytes and two IVs of 12: the longest there is.
const BLOCK_LEN: usize = 2 * (32 + 12);
