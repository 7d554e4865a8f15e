//! Threads that own sessions, and what they do for callers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyhaven_types::{HashAlgorithm, NamedGroup, Secret, SignatureScheme};

use crate::{Error, ExchangeKey, PrivateKey, Token, TokenSecret};

/// The worker threads. Clones are the same threads.
#[derive(Clone, Debug)]
pub struct Workers(Arc<()>);

impl Workers {
    /// Starts the threads.
    pub fn start(threads: usize, queue_max: usize) -> Result<Self, Error> {
        let _ = (threads, queue_max);
        Err(Error::Stopped)
    }
    /// Runs a job on a worker thread.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        job: impl FnOnce(&Worker) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let _ = (deadline, job);
        Err(Error::Stopped)
    }
    /// Queues a job without waiting for it.
    pub fn submit(&self, job: impl FnOnce(&Worker) + Send + 'static) -> Result<(), Error> {
        let _ = job;
        Err(Error::Stopped)
    }
    /// Finishes what is queued and closes the sessions.
    pub async fn shutdown(&self, grace: Duration) {
        let _ = grace;
    }
}

/// One worker thread's sessions.
#[derive(Debug)]
pub struct Worker(std::marker::PhantomData<*const ()>);

impl Worker {
    /// The worker of the calling thread.
    pub fn with_current<T>(f: impl FnOnce(&Self) -> T) -> Result<T, Error> {
        let _ = f;
        Err(Error::NotAWorker)
    }
    /// Signs a message.
    pub fn sign(
        &self,
        key: &PrivateKey,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let _ = (key, scheme, message);
        Err(Error::NotAWorker)
    }
    /// Makes an ephemeral key pair.
    pub fn generate_exchange(
        &self,
        token: &Token,
        group: NamedGroup,
    ) -> Result<ExchangeKey, Error> {
        let _ = (token, group);
        Err(Error::NotAWorker)
    }
    /// Agrees on a secret that stays in the token.
    pub fn agree(&self, key: &ExchangeKey, peer: &[u8]) -> Result<TokenSecret, Error> {
        let _ = (key, peer);
        Err(Error::NotAWorker)
    }
    /// HKDF-Extract (RFC 5869) with the secret as input key material.
    pub fn hkdf_extract(
        &self,
        hash: HashAlgorithm,
        salt: &[u8],
        secret: &TokenSecret,
    ) -> Result<Secret, Error> {
        let _ = (hash, salt, secret);
        Err(Error::NotAWorker)
    }
    /// The TLS 1.2 PRF (RFC 5246, section 5) keyed by the secret.
    pub fn tls12_prf(
        &self,
        hash: HashAlgorithm,
        secret: &TokenSecret,
        label: &[u8],
        seed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Error> {
        let _ = (hash, secret, label, seed, out);
        Err(Error::NotAWorker)
    }
}
