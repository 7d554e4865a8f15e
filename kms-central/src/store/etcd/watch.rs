//! A watch on the prefix: etcd's messages become whole transactions.
//!
//! Does not watch again by itself: its owner knows from where. Invariant: a transaction is told whole, once, in order.

use std::collections::VecDeque;

use etcd_client::{EventType, WatchResponse, WatchStream};

use super::{
    fault::{is_too_much, judge_cancelled},
    revision,
};
use crate::store::{Event, StoreError, Stored, WatchEnd};

/// A watch.
pub(in crate::store) struct EtcdWatch {
    /// None when there is nothing to watch: the cluster is behind what was asked for.
    stream: Option<WatchStream>,
    prefix: Vec<u8>,
    /// Transactions that came in one message.
    ready: VecDeque<Event>,
    /// What comes next.
    next: u64,
}

impl EtcdWatch {
    pub(super) fn new(stream: WatchStream, prefix: Vec<u8>, from: u64) -> Self {
        Self {
            stream: Some(stream),
            prefix,
            ready: VecDeque::new(),
            next: from,
        }
    }

    /// One that ends at once: `next` is what the cluster writes next, and more was asked for.
    pub(super) fn behind(next: u64) -> Self {
        Self {
            stream: None,
            prefix: Vec::new(),
            ready: VecDeque::new(),
            next,
        }
    }

    /// Safe to drop and call again.
    pub(in crate::store) async fn next(&mut self) -> Result<Event, WatchEnd> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.next = event.revision + 1;
                return Ok(event);
            }
            let Some(stream) = &mut self.stream else {
                return Err(WatchEnd::Compacted { at: self.next });
            };
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(lost("the node ended it".into())),
                // Asking again would bring the same; a scan brings it in pages.
                Err(error) if is_too_much(&error) => {
                    return Err(WatchEnd::Compacted { at: self.next });
                }
                Err(error) => return Err(lost(error.into())),
            };
            if message.compact_revision() > 0 {
                return Err(WatchEnd::Compacted {
                    at: revision(message.compact_revision()),
                });
            }
            if message.canceled() {
                return Err(WatchEnd::Lost(judge_cancelled(message.cancel_reason())));
            }
            self.take(&message);
        }
    }

    /// A message may hold several transactions; each is whole in it, since we do not ask for fragments.
    fn take(&mut self, message: &WatchResponse) {
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            let at = revision(pair.mod_revision());
            let key = pair.key().strip_prefix(self.prefix.as_slice());
            let stored = match event.event_type() {
                EventType::Put => Stored {
                    value: pair.value().to_vec(),
                    modified: at,
                },
                EventType::Delete => Stored::deletion(at),
            };
            let change = (key.unwrap_or(pair.key()).to_vec(), stored);
            match self.ready.back_mut() {
                Some(last) if last.revision == at => last.changes.push(change),
                _ => self.ready.push_back(Event {
                    revision: at,
                    changes: vec![change],
                }),
            }
        }
    }
}

fn lost(source: Box<dyn std::error::Error + Send + Sync>) -> WatchEnd {
    WatchEnd::Lost(StoreError::Unavailable {
        doing: "watching",
        source,
    })
}
