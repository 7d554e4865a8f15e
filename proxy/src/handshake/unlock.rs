//! TLS 1.3: reads the client's Finished and opens the Finished-lock with it (security rule T1).
//!
//! There is no comparison here that a mistake could skip: the keys are inside the box, and only the client's own
//! verify_data opens it. An alert at this point can only be made by the signer, once, in place of everything else.
//!
//! The feature `danger-skip-finished-check` replaces the refusal of a box that does not open by going on with
//! whatever keys there are. It exists to show in a test that the lock holds without any honesty of the proxy. Nothing
//! turns it on by itself, and a release build with it does not compile.

use keyhaven_types::{TlsVersion, alert};
use keyhaven_wire::{
    Established, HandshakeId, Locked, Refuse, Reply, Request,
    lock::{self, LockError},
};

use super::{Handshake, HandshakeError, Named, Outcome, Unlocked};
use crate::{
    client::write_all,
    flight::{FinishedReader, FinishedStep, FlightError, Refused, VerifyData},
    record::{Generation, ReadKey},
};

const WRONG_FINISHED: Refused = Refused {
    alert: alert::DECRYPT_ERROR,
    what: "a Finished that does not open the lock",
};
/// The Finished was the right one; the client gets no connection all the same.
const UNUSABLE: HandshakeError =
    HandshakeError::Answer("what lies behind the lock breaks the protocol");

impl Handshake<'_> {
    /// Opens the lock, or refuses the client with the alert that fits.
    pub(super) async fn unlock(
        &mut self,
        begun: &Named,
        outcome: Outcome,
        flight: &[u8],
        locked: Locked,
    ) -> Result<Unlocked, HandshakeError> {
        let handshake_read =
            ReadKey::new(TlsVersion::Tls13, Generation::FIRST, &locked.handshake_read)?;
        let reader = FinishedReader::new(handshake_read, locked.verify_data_len);
        let (alert, error) = match self.finished(reader).await {
            Ok(verify_data) => match self.open_box(begun, flight, &locked, &verify_data) {
                Ok(established) => {
                    let proof = lock::outcome_proof(&begun.handshake, verify_data.expose_secret());
                    if let Ok(proof) = proof {
                        outcome.proven(proof);
                    }
                    return Ok(self.unlocked(&begun.signer, established));
                }
                Err(LockError::Shut) => (WRONG_FINISHED.alert, WRONG_FINISHED.into()),
                Err(_) => (alert::INTERNAL_ERROR, UNUSABLE),
            },
            Err(HandshakeError::Refused(refused)) => (refused.alert, refused.into()),
            Err(error) => return Err(error),
        };
        if self.refuse(begun, alert).await {
            outcome.leave_known();
        }
        Err(error)
    }

    async fn finished(&mut self, mut reader: FinishedReader) -> Result<VerifyData, HandshakeError> {
        loop {
            let step = reader.read(self.inbox.bytes(), &mut self.tolerance);
            match step.map_err(|error: FlightError| HandshakeError::from(error))? {
                FinishedStep::Done {
                    consumed,
                    verify_data,
                } => {
                    self.inbox.consume(consumed);
                    return Ok(verify_data);
                }
                FinishedStep::More { consumed } => self.inbox.consume(consumed),
            }
            self.fill().await?;
        }
    }

    fn open_box(
        &self,
        begun: &Named,
        flight: &[u8],
        locked: &Locked,
        verify_data: &VerifyData,
    ) -> Result<Established, LockError> {
        let opened = lock::open(
            &begun.handshake,
            verify_data.expose_secret(),
            flight,
            &self.context.identity,
            &locked.sealed_box,
        );
        opened.or_else(|error| {
            tracing::debug!(%error, "the Finished-lock gives nothing");
            without_the_check(&begun.handshake, locked).ok_or(error)
        })
    }

    /// Asks the signer for the sealed alert and sends it; `false` when there is none to send.
    async fn refuse(&mut self, begun: &Named, alert: u8) -> bool {
        let request = Request::Refuse(Refuse {
            handshake: begun.handshake,
            alert,
        });
        let signers = &self.context.signers;
        match signers.call(&begun.signer, &begun.link, request).await {
            Ok(Reply::Alert { handshake, record }) if handshake == begun.handshake => {
                // A client that is gone does not need its alert.
                let _ = write_all(self.client, &record).await;
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "no alert for a refused Finished");
                false
            }
        }
    }
}

/// A box that stays shut has no keys.
#[cfg(not(feature = "danger-skip-finished-check"))]
fn without_the_check(_: &HandshakeId, _: &Locked) -> Option<Established> {
    None
}

/// Goes on with the only key there is, for both directions.
#[cfg(feature = "danger-skip-finished-check")]
fn without_the_check(handshake: &HandshakeId, locked: &Locked) -> Option<Established> {
    use keyhaven_types::{CustodyLevel, Secret};
    use keyhaven_wire::{ConnectionId, TrafficKey};

    tracing::error!("going on without the Finished: this build is for one test");
    let copy = |seq| TrafficKey {
        aead: locked.handshake_read.aead,
        key: Secret::copy_from(locked.handshake_read.key.expose_secret()),
        iv: Secret::copy_from(locked.handshake_read.iv.expose_secret()),
        seq,
    };
    Some(Established {
        connection: ConnectionId(handshake.0),
        version: TlsVersion::Tls13,
        suite: 0,
        write: copy(1 << 20),
        read: copy(1),
        rekey_write: Vec::new(),
        rekey_read: Vec::new(),
        lifetime_s: 60,
        server_name: String::new(),
        alpn: None,
        level: CustodyLevel::Signature,
        tickets: Vec::new(),
        resumed: false,
        client: None,
    })
}
