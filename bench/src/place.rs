//! A site of one row of the matrix, made once and started for each measurement.
//!
//! Leaves what a site is to `xtask`. Sees to it that what was measured was at the level that the table will say.

use std::{net::SocketAddr, thread, time::Duration};

use keyhaven_softhsm_test::Shim;
use keyhaven_xtask::{
    Error,
    cargo::{Programs, target_dir},
    daemon,
    interrupt::Interrupt,
    site::{self, Algorithm, Folder, Row, Running, SiteOptions, Tickets, Tokens},
};

use crate::handshake::{SERVER_CPU, STOP_GRACE, free_address};

/// A site that can be started.
pub(crate) struct Place<'a> {
    pub(crate) row: Row,
    pub(crate) tokens: Tokens<'a>,
    pub(crate) folder: Folder,
    programs: &'a Programs,
    /// The modules that count, one a token.
    counting: Vec<Shim>,
}

impl<'a> Place<'a> {
    /// Makes tokens, key and certificates in a folder under `target/bench`.
    pub(crate) fn make(
        row: Row,
        folder: &str,
        programs: &'a Programs,
        algorithm: Algorithm,
        interrupt: &Interrupt,
    ) -> Result<Place<'a>, Error> {
        let folder = Folder::take(&target_dir().join("bench").join(folder))?;
        let tokens = Tokens::create(row, &folder, programs, algorithm, interrupt)?;
        site::issue_identities(&folder)?;
        site::issue_site_certificate(&folder, &tokens.key.signing_request(&folder)?)?;
        Ok(Place {
            row,
            tokens,
            folder,
            programs,
            counting: Vec::new(),
        })
    }

    /// Starts it at exactly this level, with or without tickets.
    pub(crate) fn start(
        &self,
        level: &'static str,
        tickets: Tickets,
        backend: SocketAddr,
        interrupt: &Interrupt,
    ) -> Result<Running, Error> {
        let options = SiteOptions {
            signer: free_address()?,
            listen: free_address()?,
            backend,
            custody_min: level,
            custody_max: Some(level),
            tickets,
        };
        site::write_configs(&self.folder, &self.tokens, &options)?;
        Running::start_on(
            self.programs,
            &self.folder,
            &self.tokens,
            Some(SERVER_CPU),
            interrupt,
        )
    }

    /// Stops it. An error when a handshake had another level.
    pub(crate) fn stop(&self, running: Running, level: &str) -> Result<(), Error> {
        let log = running.signer.log_text();
        let other = daemon::fields(&log)
            .filter_map(|line| daemon::find_text(&line, "custody"))
            .find(|told| told != level);
        if let Some(other) = other {
            let what = format!("served at level `{other}` and not at `{level}`");
            return Err(running.signer.error(what));
        }
        running.proxy.stop(STOP_GRACE)?;
        running.signer.stop(STOP_GRACE).map(drop)
    }

    /// Puts a module that counts before each token's own from the next start on, or takes it away.
    pub(crate) fn set_counting(&mut self, on: bool) {
        self.counting.clear();
        for token in self.tokens.all_mut() {
            token.set_stand_in(None);
            if on {
                let shim = Shim::of(&token.dir(), &token.module());
                token.set_stand_in(Some(shim.module()));
                self.counting.push(shim);
            }
        }
    }

    /// The calls that were counted until now, once no more come.
    pub(crate) fn calls(&self) -> u64 {
        let total = || self.counting.iter().map(|shim| shim.report().total()).sum();
        let mut before: u64 = total();
        loop {
            thread::sleep(Duration::from_millis(100));
            let now = total();
            if now == before {
                return now;
            }
            before = now;
        }
    }
}
