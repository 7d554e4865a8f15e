//! Notices Ctrl-C, SIGTERM and SIGHUP, so that the verbs can stop what they started.
//!
//! Only raises a flag; whoever waits for something looks at it. A second signal changes nothing: what was
//! started is being stopped already.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::Error;

/// Whether a signal asked us to stop.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen for signals, for the rest of the process's life.
    pub fn listen() -> Result<Interrupt, Error> {
        let interrupt = Interrupt::default();
        let raised = interrupt.clone();
        let failed = |source| Error::Start {
            program: "the signal listener".to_owned(),
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let streams = {
            let _entered = runtime.enter();
            [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ]
            .map(signal)
        };
        let [interrupted, terminated, hung_up] = streams;
        let (mut interrupted, mut terminated, mut hung_up) = (
            interrupted.map_err(failed)?,
            terminated.map_err(failed)?,
            hung_up.map_err(failed)?,
        );
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupted.recv() => {}
                    _ = terminated.recv() => {}
                    _ = hung_up.recv() => {}
                }
                raised.0.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            });
        });
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error when a signal has come, for the points where a verb can stop.
    pub fn check(&self) -> Result<(), Error> {
        if self.raised() {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}
