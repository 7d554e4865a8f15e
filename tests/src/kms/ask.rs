//! A KMS client over a real connection: it says what it wants and shows what came.

use std::net::SocketAddr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use keyhaven_types::{Operation, SignatureScheme};
use keyhaven_wire::kms::{
    Batch, BatchBody, Done, Found, KeyRef, Lookup, SignedBatch, SiteStatus, Task, TaskError,
    TaskResult, batch_text,
};
use keyhaven_wire::{Reply, Request};

use crate::channel::{Caller, load};
use crate::pki::Pair;

/// A client with one connection.
pub struct Kms {
    caller: Caller,
}

impl Kms {
    /// Connects.
    pub fn connect(server: SocketAddr, pair: &Pair) -> Kms {
        Kms {
            caller: Caller::connect(server, Some(pair)),
        }
    }

    /// Asks anything.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn ask(&mut self, request: &Request) -> Reply {
        self.caller
            .call(request)
            .unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Asks anything, on a connection that may break.
    pub fn try_ask(&mut self, request: &Request) -> std::io::Result<Reply> {
        self.caller.call(request)
    }

    /// Has operations done.
    pub fn operate(&mut self, tasks: Vec<Task>) -> Vec<TaskResult> {
        match self.ask(&Request::Operate(Batch { tasks })) {
            Reply::Results(results) => results,
            other => panic!("no results: {other:?}"),
        }
    }

    /// Has operations done, with leave to pass them on.
    pub fn operate_signed(&mut self, batch: SignedBatch) -> Vec<TaskResult> {
        match self.ask(&Request::OperateSigned(batch)) {
            Reply::Results(results) => results,
            other => panic!("no results: {other:?}"),
        }
    }

    /// Has one operation done.
    pub fn one(&mut self, task: Task) -> Result<Done, TaskError> {
        let mut results = self.operate(vec![task]);
        results.pop().expect("one for each task").outcome
    }

    /// A signature by a P-256 key.
    pub fn sign(&mut self, key: &str, message: &[u8]) -> Result<Vec<u8>, TaskError> {
        let task = Task::Sign {
            key: named(key),
            scheme: SignatureScheme::EcdsaSecp256r1Sha256,
            message: message.to_vec(),
        };
        self.one(task).map(|done| match done {
            Done::Signature { signature, .. } => signature,
            other => panic!("no signature: {other:?}"),
        })
    }

    /// An HMAC.
    pub fn mac(&mut self, key: &str, message: &[u8]) -> Result<Vec<u8>, TaskError> {
        let task = Task::Mac {
            key: named(key),
            message: message.to_vec(),
        };
        self.one(task).map(|done| match done {
            Done::Mac { mac, .. } => mac,
            other => panic!("no HMAC: {other:?}"),
        })
    }

    /// Who can.
    pub fn lookup(&mut self, key: &str, operation: Operation) -> Found {
        let lookup = Lookup {
            key: named(key),
            operation,
            caller: None,
        };
        match self.ask(&Request::Lookup(lookup)) {
            Reply::Found(found) => found,
            other => panic!("no answer to a lookup: {other:?}"),
        }
    }

    /// How a site is; for its peers. Nothing as long as it does not know them yet.
    pub fn status(&mut self) -> Option<SiteStatus> {
        match self.ask(&Request::Status) {
            Reply::Status(status) => Some(*status),
            Reply::Error(_) => None,
            other => panic!("no status: {other:?}"),
        }
    }
}

/// A key by its name.
pub fn named(key: &str) -> KeyRef {
    KeyRef::Name(key.parse().expect("a name"))
}

/// What was done.
///
/// # Panics
/// When it was not.
pub fn done(result: &TaskResult) -> &Done {
    match &result.outcome {
        Ok(done) => done,
        Err(error) => panic!("not done: {error}"),
    }
}

/// The sites that a lookup names, in its order.
pub fn server_of(found: &Found) -> Vec<&str> {
    found
        .servers
        .iter()
        .map(|server| server.site.as_str())
        .collect()
}

/// A batch signed by the client whose files these are, for one server.
///
/// # Panics
/// When the files cannot be used.
pub fn sign_batch(pair: &Pair, caller: &str, server: &str, tasks: Vec<Task>) -> SignedBatch {
    let body = BatchBody {
        caller: caller.parse().expect("an identity"),
        server: server.parse().expect("an identity"),
        nonce: random(),
        expires_ms: now_ms() + 30_000,
        tasks,
    };
    sign_body(pair, &body)
}

/// Signs what a caller says, whatever it says.
pub fn sign_body(pair: &Pair, body: &BatchBody) -> SignedBatch {
    let (chain, key) = load(pair);
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der())
        .expect("the tests' identities have keys on P-256");
    let body = postcard::to_stdvec(body).expect("a batch can be written");
    let signature = key
        .sign(&SystemRandom::new(), &batch_text(&body))
        .expect("the system gives random bytes");
    SignedBatch {
        chain: chain.iter().map(|der| der.to_vec()).collect(),
        body,
        scheme: SignatureScheme::EcdsaSecp256r1Sha256,
        signature: signature.as_ref().to_vec(),
    }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("the clock is right").as_millis()).expect("not so far in the future")
}
