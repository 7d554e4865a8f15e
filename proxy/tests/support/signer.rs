//! A signer that makes its handshakes up, and misbehaves when a test wants it to.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use aws_lc_rs::{aead, digest, hkdf};
use keyhaven_proxy::record::{Generation, WriteKey};
use keyhaven_service::{Caller, Handler};
use keyhaven_types::{CustodyLevel, Direction, Identity, TlsVersion};
use keyhaven_wire::{
    ClientCertificate, ConnectionId, ErrorCode, Established, Expect, HandshakeId, HandshakeReply,
    Locked, Next, Rekeyed, Reply, Request,
    kms::{Found, KeyRef, Lookup, Server},
    lock,
};

use super::{FLIGHT, FROM_CLIENT, HANDSHAKE, TO_CLIENT, VERIFY_DATA, key};

/// One request of a handshake, as a plan sees it.
pub(crate) struct Step<'a> {
    pub(crate) signer: &'a FakeSigner,
    pub(crate) caller: &'a Caller,
    pub(crate) handshake: &'a HandshakeId,
    /// 0 for Start, then one more for each Continue.
    pub(crate) number: usize,
    pub(crate) records: &'a [u8],
}

impl Step<'_> {
    /// Keys behind the lock.
    pub(crate) fn locked(&self) -> Next {
        self.signer.locked(self.caller, self.handshake)
    }
}

/// Keys without a lock.
pub(crate) fn open(signer: &FakeSigner, version: TlsVersion) -> Next {
    Next::Open(Box::new(signer.established(version)))
}

/// What a test makes of each step: records for the client, and what comes next.
type Plan = Box<dyn Fn(&Step<'_>) -> (Vec<u8>, Next) + Send>;

/// A signer that makes its handshakes up.
#[derive(Default)]
pub(crate) struct FakeSigner {
    /// Answers every Start with this.
    pub(crate) start_error: Mutex<Option<ErrorCode>>,
    /// Refuses every Rekey.
    pub(crate) rekey_fails: AtomicBool,
    /// Speaks TLS 1.2.
    pub tls12: AtomicBool,
    /// In TLS 1.2: how often it wants more of the Finished before it gives the keys.
    pub(crate) wants_more: AtomicUsize,
    /// Asks for a second ClientHello first.
    pub(crate) retry: AtomicBool,
    /// Says that it cannot serve, and serves.
    pub(crate) is_sick: AtomicBool,
    /// How often it was asked whether it can.
    pub(crate) pings: AtomicUsize,
    /// How long it takes for a Start, in milliseconds.
    pub(crate) start_ms: AtomicU64,
    /// What it says of host names; nobody serves others. None: it knows nothing of managed keys.
    pub(crate) served: Mutex<Option<HashMap<String, Vec<Server>>>>,
    /// Lookups that it answered.
    pub(crate) lookups: AtomicUsize,
    /// Never answers a Start.
    pub(crate) stalls: AtomicBool,
    /// Answers so many outcomes with "busy" first.
    pub(crate) outcomes_busy: AtomicUsize,
    /// How many tickets lie beside the keys.
    pub(crate) tickets: AtomicUsize,
    /// Whose certificate lies beside the keys, where there is no lock.
    pub(crate) client: Mutex<Option<ClientCertificate>>,
    /// Locks up a write key that has protected a record which is not there.
    pub(crate) spoils_box: AtomicBool,
    /// Answers every Start and Continue, in place of all that stands above.
    plan: Mutex<Option<Plan>>,
    step: AtomicUsize,
    pub(crate) starts: AtomicUsize,
    pub(crate) rekeys: AtomicUsize,
    pub(crate) proven: AtomicUsize,
    pub(crate) aborted: AtomicUsize,
    pub(crate) refused: Mutex<Vec<u8>>,
    pub(crate) continued: Mutex<Vec<Vec<u8>>>,
}

impl FakeSigner {
    /// From now on, a handshake goes as the plan says.
    pub(crate) fn plan(&self, plan: impl Fn(&Step<'_>) -> (Vec<u8>, Next) + Send + 'static) {
        *self.plan.lock().unwrap() = Some(Box::new(plan));
    }

    fn looked_up(&self, lookup: Lookup) -> Reply {
        self.lookups.fetch_add(1, SeqCst);
        let served = self.served.lock().unwrap();
        let (Some(served), KeyRef::ServerName(name)) = (&*served, lookup.key) else {
            return Reply::Error(ErrorCode::Denied);
        };
        Reply::Found(Found {
            servers: served.get(&name).cloned().unwrap_or_default(),
            revision: 1,
            central_ms_ago: Some(0),
            good_for_ms: 60_000,
        })
    }

    fn established(&self, version: TlsVersion) -> Established {
        let is_tls13 = version == TlsVersion::Tls13;
        let state = |byte| if is_tls13 { vec![byte] } else { Vec::new() };
        let count = self.tickets.load(SeqCst);
        let (write_seq, read_seq) = if is_tls13 { (count as u64, 0) } else { (1, 1) };
        Established {
            connection: ConnectionId([3; 32]),
            version,
            suite: if is_tls13 { 0x1301 } else { 0xc02f },
            write: key(TO_CLIENT, write_seq),
            read: key(FROM_CLIENT, read_seq),
            rekey_write: state(1),
            rekey_read: state(2),
            lifetime_s: 3600,
            server_name: "example.org".to_owned(),
            alpn: None,
            level: CustodyLevel::Premaster,
            tickets: if is_tls13 { tickets(count) } else { Vec::new() },
            resumed: false,
            client: self.client.lock().unwrap().clone(),
        }
    }

    fn locked(&self, caller: &Caller, handshake: &HandshakeId) -> Next {
        let mut established = Established {
            client: None,
            ..self.established(TlsVersion::Tls13)
        };
        let identity = &caller.identity;
        let sealed = if self.spoils_box.load(SeqCst) {
            established.write.seq += 1;
            seal_anything(handshake, identity, &established)
        } else {
            lock::seal(handshake, &VERIFY_DATA, FLIGHT, identity, &established).unwrap()
        };
        Next::Locked(Locked {
            handshake_read: key(HANDSHAKE, 0),
            verify_data_len: 32,
            sealed_box: sealed,
        })
    }

    fn next(&self, caller: &Caller, handshake: &HandshakeId) -> Next {
        if self.tls12.load(SeqCst) {
            Next::More(Expect::KeyExchange)
        } else if self.retry.load(SeqCst) {
            Next::More(Expect::ClientHello)
        } else {
            self.locked(caller, handshake)
        }
    }

    /// The answer of the plan, if there is one.
    fn planned(&self, caller: &Caller, request: &Request) -> Option<Reply> {
        let plan = self.plan.lock().unwrap();
        let plan = plan.as_ref()?;
        let (handshake, records, binding) = match request {
            Request::Start(start) => {
                self.starts.fetch_add(1, SeqCst);
                self.step.store(0, SeqCst);
                (&start.handshake, &start.records, start.binding())
            }
            Request::Continue(go_on) => {
                self.continued.lock().unwrap().push(go_on.records.clone());
                (&go_on.handshake, &go_on.records, go_on.binding())
            }
            _ => return None,
        };
        let (to_client, next) = plan(&Step {
            signer: self,
            caller,
            handshake,
            number: self.step.fetch_add(1, SeqCst),
            records,
        });
        Some(Reply::Handshake(HandshakeReply {
            binding,
            consumed: records.len() as u32,
            to_client,
            next,
        }))
    }

    fn answer(&self, caller: &Caller, request: Request) -> Reply {
        if let Some(reply) = self.planned(caller, &request) {
            return reply;
        }
        let reply = |binding, consumed: usize, next| {
            Reply::Handshake(HandshakeReply {
                binding,
                consumed: consumed as u32,
                to_client: FLIGHT.to_vec(),
                next,
            })
        };
        match request {
            Request::Ping => {
                self.pings.fetch_add(1, SeqCst);
                match self.is_sick.load(SeqCst) {
                    true => Reply::Error(ErrorCode::Unavailable),
                    false => Reply::Pong,
                }
            }
            Request::Lookup(lookup) => self.looked_up(lookup),
            Request::Start(start) => {
                self.starts.fetch_add(1, SeqCst);
                if let Some(code) = *self.start_error.lock().unwrap() {
                    return Reply::Error(code);
                }
                let next = self.next(caller, &start.handshake);
                reply(start.binding(), start.records.len(), next)
            }
            Request::Continue(go_on) => {
                self.continued.lock().unwrap().push(go_on.records.clone());
                let more = |left: usize| left.checked_sub(1);
                let next = if self.wants_more.fetch_update(SeqCst, SeqCst, more).is_ok() {
                    Next::More(Expect::KeyExchange)
                } else if self.tls12.load(SeqCst) {
                    open(self, TlsVersion::Tls12)
                } else {
                    self.locked(caller, &go_on.handshake)
                };
                let mut reply = HandshakeReply {
                    binding: go_on.binding(),
                    consumed: go_on.records.len() as u32,
                    to_client: FLIGHT.to_vec(),
                    next,
                };
                if matches!(reply.next, Next::More(_)) {
                    reply.to_client.clear();
                }
                Reply::Handshake(reply)
            }
            Request::Outcome(outcome) => {
                let busy = |left: usize| left.checked_sub(1);
                if self
                    .outcomes_busy
                    .fetch_update(SeqCst, SeqCst, busy)
                    .is_ok()
                {
                    return Reply::Error(ErrorCode::Busy);
                }
                let expected = lock::outcome_proof(&outcome.handshake, &VERIFY_DATA).unwrap();
                let count = match outcome.proof {
                    Some(proof) if proof == expected => &self.proven,
                    _ => &self.aborted,
                };
                count.fetch_add(1, SeqCst);
                Reply::Noted
            }
            Request::Refuse(refuse) => {
                self.refused.lock().unwrap().push(refuse.alert);
                let mut record = Vec::new();
                let mut write =
                    WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key(TO_CLIENT, 0))
                        .unwrap();
                write.seal(21, &[2, refuse.alert], &mut record).unwrap();
                Reply::Alert {
                    handshake: refuse.handshake,
                    record,
                }
            }
            Request::Rekey(rekey) => {
                self.rekeys.fetch_add(1, SeqCst);
                if self.rekey_fails.load(SeqCst) {
                    return Reply::Error(ErrorCode::Unavailable);
                }
                let first = match rekey.direction {
                    Direction::Read => FROM_CLIENT,
                    Direction::Write => TO_CLIENT,
                };
                Reply::Rekeyed(Rekeyed {
                    connection: rekey.connection,
                    direction: rekey.direction,
                    generation: rekey.generation,
                    key: key(first + rekey.generation as u8, 0),
                    state: vec![rekey.generation as u8],
                })
            }
            _ => Reply::Error(ErrorCode::Denied),
        }
    }
}

impl Handler for FakeSigner {
    async fn call(&self, caller: Arc<Caller>, request: Request) -> Reply {
        if self.stalls.load(SeqCst) && matches!(request, Request::Start(_)) {
            std::future::pending::<()>().await;
        }
        if matches!(request, Request::Start(_)) {
            let takes = Duration::from_millis(self.start_ms.load(SeqCst));
            tokio::time::sleep(takes).await;
        }
        self.answer(&caller, request)
    }
}

/// So many records with tickets, the first ones under the server's key.
fn tickets(count: usize) -> Vec<u8> {
    let mut write =
        WriteKey::new(TlsVersion::Tls13, Generation::FIRST, &key(TO_CLIENT, 0)).unwrap();
    let mut records = Vec::new();
    for number in 0..count {
        let ticket = [4, 0, 0, 1, number as u8];
        write.seal(22, &ticket, &mut records).unwrap();
    }
    records
}

/// The box of `PROTOCOL.md`, whatever is in it.
fn seal_anything(handshake: &HandshakeId, proxy: &Identity, established: &Established) -> Vec<u8> {
    let okm_info = [&b"kh1 box"[..]];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &handshake.0).extract(&VERIFY_DATA);
    let okm = prk.expand(&okm_info, &aead::AES_256_GCM).unwrap();
    let key = aead::LessSafeKey::new(aead::UnboundKey::from(okm));
    let flight = digest::digest(&digest::SHA256, FLIGHT);
    let aad = [flight.as_ref(), proxy.as_str().as_bytes()].concat();
    let mut sealed = postcard::to_allocvec(established).unwrap();
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut sealed)
        .unwrap();
    sealed
}
