//! The worker threads: started, fed and stopped.
//!
//! What a worker does with its sessions is in `worker`. Invariant: a caller waits no longer than its deadline, and
//! a full queue is said at once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    Error, Worker,
    queue::{Job, Next, Queue},
};

/// A fixed number of OS threads, each of which owns one session per token. Clones are the same threads; when the
/// last one is dropped, what waits is dropped with it, and the threads are waited for, but not for long.
#[derive(Clone)]
pub struct Workers(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    /// Threads that still run.
    alive: watch::Receiver<usize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts `threads` threads (at least one) behind a queue in which `queue_max` jobs may wait.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(threads: usize, queue_max: usize) -> Result<Self, Error> {
        let queue = Arc::new(Queue::new(queue_max.max(1)));
        let (counter, alive) = watch::channel(0);
        let counter = Arc::new(counter);
        let workers = Self(Arc::new(Inner {
            queue: Arc::clone(&queue),
            alive,
            threads: Mutex::default(),
        }));
        for number in 0..threads.max(1) {
            let (queue, counter) = (Arc::clone(&queue), Arc::clone(&counter));
            counter.send_modify(|alive| *alive += 1);
            let ending = Ending(Arc::clone(&counter));
            let thread = thread::Builder::new()
                .name(format!("token-{number}"))
                .spawn(move || {
                    let _ending = ending;
                    Worker::own_thread(&queue, |worker| serve(&queue, worker));
                })
                .map_err(Error::StartThread)?;
            workers.0.threads().push(thread);
        }
        Ok(workers)
    }

    /// Runs a job on a worker thread and waits for its result until the deadline.
    ///
    /// # Errors
    /// [`Error::Busy`] at once when the queue is full. [`Error::Deadline`] when it passes: a job that was still
    /// waiting is then dropped unrun, one that runs is run to its end and its result dropped, both on a worker
    /// thread. [`Error::JobDied`] when the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        job: impl FnOnce(&Worker) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, result) = oneshot::channel();
        self.0.queue.push(Box::new(move |worker| {
            if Instant::now() < deadline && !reply.is_closed() {
                // A result that nobody waits for is dropped here, on the thread that can destroy what it owns.
                let _ = reply.send(job(worker));
            }
        }))?;
        match tokio::time::timeout_at(deadline.into(), result).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) if Instant::now() >= deadline => Err(Error::Deadline),
            Ok(Err(_)) => Err(Error::JobDied),
            Err(_) => Err(Error::Deadline),
        }
    }

    /// Queues a job whose outcome nobody waits for.
    ///
    /// # Errors
    /// [`Error::Busy`] when the queue is full, [`Error::Stopped`] after a shutdown.
    pub fn submit(&self, job: impl FnOnce(&Worker) + Send + 'static) -> Result<(), Error> {
        self.0.queue.push(Box::new(job))
    }

    /// Takes no more jobs, does those that wait, closes the sessions and ends the threads. What is not done after
    /// `grace` is dropped; a thread that hangs inside a module is left behind.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.queue.close();
        let mut alive = self.0.alive.clone();
        let ended = alive.wait_for(|alive| *alive == 0);
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!(
                "token sessions are still at work after the grace time; their jobs are dropped"
            );
            self.0.queue.abandon();
        }
        self.0.join();
    }
}

impl Inner {
    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the threads have ended to their last destructor: a module that takes itself apart at the end of
    /// the process while one of them is still on its way out crashes. One that hangs is left behind.
    fn join(&self) {
        let until = Instant::now() + JOIN_PATIENCE;
        for thread in std::mem::take(&mut *self.threads()) {
            // The last handle may go with a job: a thread does not wait for itself.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            while !thread.is_finished() && Instant::now() < until {
                thread::sleep(JOIN_PAUSE);
            }
            if thread.is_finished() {
                // A panic was counted and logged where it happened.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.abandon();
        self.join();
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({} threads)", *self.0.alive.borrow())
    }
}

/// Counts its thread out, however it ends.
struct Ending(Arc<watch::Sender<usize>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

/// A worker thread's life.
fn serve(queue: &Queue, worker: &Worker) {
    let mut swept = 0;
    loop {
        match queue.next(&mut swept) {
            Next::Run(job) => {
                worker.empty_trash();
                run(worker, job);
            }
            Next::Discard(job) => drop(job),
            Next::EmptyTrash => worker.empty_trash(),
            Next::Stop => {
                worker.empty_trash();
                return;
            }
        }
    }
}

/// A job that panics ends itself and not the thread. Its sessions stay sound: nothing of a worker is changed while
/// a caller's code runs.
fn run(worker: &Worker, job: Job) {
    if catch_unwind(AssertUnwindSafe(|| job(worker))).is_err() {
        tracing::error!("a job on a token session panicked");
    }
}

/// How long the end of threads is waited for that should have nothing more to do.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);
const JOIN_PAUSE: Duration = Duration::from_millis(1);
