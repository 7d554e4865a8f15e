//! The queue and the threads: bounds, deadlines, panics, the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, Instant},
};

use common::{open, runtime, soon, wait_for};
use keyhaven_hsm::{Error, Worker, Workers};
use keyhaven_softhsm_test::fresh_token;
use keyhaven_types::NamedGroup;

/// Occupies the only thread until the returned sender is used or dropped.
fn occupy(workers: &Workers) -> std::sync::mpsc::SyncSender<()> {
    let (release, held) = sync_channel::<()>(1);
    let (started, running) = sync_channel(1);
    workers
        .submit(move |_| {
            started.send(()).unwrap();
            let _ = held.recv();
        })
        .unwrap();
    running.recv().unwrap();
    release
}

#[test]
fn a_full_queue_is_said_at_once() {
    let workers = Workers::start(1, 2).unwrap();
    let release = occupy(&workers);
    workers.submit(|_| {}).unwrap();
    workers.submit(|_| {}).unwrap();
    let error = runtime().block_on(workers.run(soon(), |_| ())).unwrap_err();
    assert!(matches!(error, Error::Busy) && error.is_unavailable());
    assert!(matches!(workers.submit(|_| {}), Err(Error::Busy)));
    drop(release);
    wait_for("room", || workers.submit(|_| {}).is_ok());
}

#[test]
fn a_job_whose_deadline_passes_while_it_waits_is_not_run() {
    let workers = Workers::start(1, 8).unwrap();
    let release = occupy(&workers);
    let ran = Arc::new(AtomicBool::new(false));
    let dropped_on = Arc::new(Mutex::new(None));
    struct Tell(Arc<Mutex<Option<bool>>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(Worker::with_current(|_| ()).is_ok());
        }
    }
    let (flag, tell) = (Arc::clone(&ran), Tell(Arc::clone(&dropped_on)));
    let result = runtime().block_on(workers.run(
        Instant::now() + Duration::from_millis(30),
        move |_| {
            let _tell = tell;
            flag.store(true, Ordering::SeqCst);
        },
    ));
    assert!(matches!(result, Err(Error::Deadline)), "{result:?}");
    assert!(dropped_on.lock().unwrap().is_none());
    drop(release);
    wait_for("the drop", || dropped_on.lock().unwrap().is_some());
    assert_eq!(
        *dropped_on.lock().unwrap(),
        Some(true),
        "dropped on a worker thread"
    );
    assert!(!ran.load(Ordering::SeqCst));
}

#[test]
fn a_panic_ends_the_job_and_not_the_thread() {
    let workers = Workers::start(1, 8).unwrap();
    let result =
        runtime().block_on(workers.run(soon(), |_| -> () { panic!("in a job, on purpose") }));
    assert!(matches!(result, Err(Error::JobDied)), "{result:?}");
    assert_eq!(runtime().block_on(workers.run(soon(), |_| 7)).unwrap(), 7);
}

#[test]
fn only_worker_threads_are_workers() {
    assert!(matches!(
        Worker::with_current(|_| ()),
        Err(Error::NotAWorker)
    ));
    let workers = Workers::start(1, 8).unwrap();
    let inside = workers.run(soon(), |_| Worker::with_current(|_| ()).is_ok());
    assert!(runtime().block_on(inside).unwrap());
}

#[test]
fn shutdown_does_what_waits_and_takes_no_more() {
    let test = fresh_token!();
    let token = open(&test);
    let workers = Workers::start(2, 64).unwrap();
    let done = Arc::new(Mutex::new(0));
    for _ in 0..20 {
        let (done, token) = (Arc::clone(&done), token.clone());
        workers
            .submit(move |worker| {
                worker
                    .generate_exchange(&token, NamedGroup::Secp256r1)
                    .unwrap();
                *done.lock().unwrap() += 1;
            })
            .unwrap();
    }
    runtime().block_on(workers.shutdown(Duration::from_secs(60)));
    assert_eq!(*done.lock().unwrap(), 20);
    assert!(matches!(workers.submit(|_| {}), Err(Error::Stopped)));
    assert_eq!(token.live_ephemerals(), 0);
    assert!(token.is_alive(), "the anchor session keeps the login");
}

#[test]
fn a_shutdown_over_its_grace_time_drops_what_waits() {
    let workers = Workers::start(1, 8).unwrap();
    let release = occupy(&workers);
    let ran = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ran);
    workers
        .submit(move |_| flag.store(true, Ordering::SeqCst))
        .unwrap();
    runtime().block_on(workers.shutdown(Duration::from_millis(20)));
    drop(release);
    runtime().block_on(workers.shutdown(Duration::from_secs(60)));
    assert!(!ran.load(Ordering::SeqCst));
}
