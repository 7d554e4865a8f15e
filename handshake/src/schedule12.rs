//! The PRF of TLS 1.2 for rustls (RFC 5246, section 5): in the token as far as the level says.
//!
//! At `premaster` the token runs the PRF to the master secret, which comes out; above, the master secret is a handle,
//! and only key blocks and Finished values come out. `for_secret` is infallible: a failure is noted, random bytes
//! stand in for the value, and the engine throws the step away.

use keyhaven_hsm::{Finished12, Kept, TokenSecret, Worker};
use keyhaven_types::{CustodyLevel, HashAlgorithm};
use rustls::{
    Error,
    crypto::{ActiveKeyExchange, tls12::Prf},
    version::TLS12,
};

use crate::{
    context,
    error::Failure,
    random::stand_in,
    secrets::{HANDLE_LEN, Index, from_handle, to_handle},
};

/// The PRF of one hash function.
pub(crate) struct Schedule12 {
    pub(crate) hash: HashAlgorithm,
    pub(crate) software: &'static dyn Prf,
}

impl Schedule12 {
    fn master_in_token(
        &self,
        premaster: &[u8],
        label: &[u8],
        seed: &[u8],
        output: &mut [u8; 48],
    ) -> Result<(), Failure> {
        let premaster =
            from_handle(premaster).ok_or(Failure::Engine("a premaster that is not a handle"))?;
        context::with_worker(|context, worker| {
            if context.runs_at() < CustodyLevel::Master {
                let secret = context.secrets.object(worker, premaster)?;
                return Ok(worker.tls12_prf(self.hash, secret, label, seed, output)?);
            }
            if label != EXTENDED_MASTER {
                return Err(Failure::Engine("a master secret without the transcript"));
            }
            // Only tickets ever need it outside.
            let kept = match &context.facts.tickets {
                Some(tickets) if tickets.tls12 => Kept::Wrappable,
                _ => Kept::Never,
            };
            let secret = context.secrets.object(worker, premaster)?;
            let master = worker.tls12_extended_master(self.hash, secret, seed, kept)?;
            let index = context.secrets.keep(master);
            output.fill(0);
            output[..HANDLE_LEN].copy_from_slice(&to_handle(index));
            Ok(())
        })
    }

    fn leave(
        &self,
        master: Index,
        label: &[u8],
        seed: &[u8],
        output: &mut [u8],
    ) -> Result<(), Failure> {
        let asked = [label, seed].concat();
        context::with_worker(|context, worker| {
            context
                .secrets
                .leave(worker, master, &asked, output, |master, out| {
                    self.leave_token(worker, master, label, seed, out)
                })
        })
    }

    fn leave_token(
        &self,
        worker: &Worker,
        master: &TokenSecret,
        label: &[u8],
        seed: &[u8],
        out: &mut [u8],
    ) -> Result<(), keyhaven_hsm::Error> {
        let whose = match label {
            b"client finished" => Finished12::Client,
            b"server finished" => Finished12::Server,
            // "key expansion", whose seed is the server's random, then the client's.
            _ => {
                let (mut client, mut server) = ([0; 32], [0; 32]);
                if let (Some(first), Some(last)) = (seed.first_chunk(), seed.last_chunk()) {
                    server = *first;
                    client = *last;
                }
                return worker.tls12_key_block(self.hash, master, &client, &server, out);
            }
        };
        let mut verify_data = [0; 12];
        worker.tls12_finished(self.hash, master, whose, seed, &mut verify_data)?;
        if let Some(out) = out.get_mut(..12) {
            out.copy_from_slice(&verify_data);
        }
        Ok(())
    }
}

impl Prf for Schedule12 {
    fn for_key_exchange(
        &self,
        output: &mut [u8; 48],
        exchange: Box<dyn ActiveKeyExchange>,
        peer: &[u8],
        label: &[u8],
        seed: &[u8],
    ) -> Result<(), Error> {
        if context::runs_at() == CustodyLevel::Signature {
            return self
                .software
                .for_key_exchange(output, exchange, peer, label, seed);
        }
        let premaster = exchange.complete_for_tls_version(peer, &TLS12)?;
        self.master_in_token(premaster.secret_bytes(), label, seed, output)
            .map_err(|failure| {
                context::fail(failure);
                Error::General("the token failed".into())
            })
    }

    fn for_secret(&self, output: &mut [u8], secret: &[u8], label: &[u8], seed: &[u8]) {
        let Some(master) = from_handle(secret) else {
            return self.software.for_secret(output, secret, label, seed);
        };
        let known = matches!(
            label,
            b"client finished" | b"server finished" | b"key expansion"
        );
        let made = if known {
            self.leave(master, label, seed, output)
        } else {
            Err(Failure::Engine("a derivation that TLS 1.2 does not have"))
        };
        if let Err(failure) = made {
            context::fail(failure);
            output.copy_from_slice(&stand_in(output.len()));
        }
    }
}

/// RFC 7627, section 4.
const EXTENDED_MASTER: &[u8] = b"extended master secret";
